/** `qwen3 doctor`: does it work here, and if not, what helps? */
import type { Command } from 'commander'
import { Qwen3 } from '../lib/index'
import { loadAddon } from '../lib/native'
import { missingTools } from './build'
import { exitCode } from './common/exit'
import { examples } from './common/flags'
import { packageRoot } from './common/package'
import { styled } from './common/terminal'
import { size } from './inspect'

export function addDoctor(program: Command): void {
  const command = program
    .command('doctor')
    .summary('does it work on this machine?')
    .description(
      'Checks the native addon, the processor and the built-in model, and says what to do about each problem.',
    )
    .action(doctor)
  examples(command, [['npx qwen3 doctor', 'the first thing to run, and to paste into a bug report']])
}

async function doctor(): Promise<void> {
  const out = process.stdout
  let problems = 0
  const good = (label: string, text: string) =>
    out.write(`${styled(out, 'green', 'ok ')} ${label.padEnd(10)} ${text}\n`)
  const bad = (label: string, text: string) => {
    problems++
    out.write(`${styled(out, 'red', 'bad')} ${label.padEnd(10)} ${text}\n`)
  }
  good('node', `${process.version} on ${process.platform}-${process.arch}${libc()}`)
  good('package', packageRoot())
  try {
    const cpu = loadAddon().cpuInfo()
    good('addon', 'loaded')
    good('processor', `kernels for ${cpu.isa} (of ${cpu.levels.join(', ')}), ${cpu.physicalCores} cores`)
    good('memory', `${size(cpu.memoryBytes)}, ${size(cpu.availableBytes)} available`)
    good('devices', devices())
  } catch (error) {
    bad('addon', (error as Error).message)
    const missing = missingTools()
    if (missing.length > 0) bad('tools', missing.join('; '))
    else good('tools', 'CMake and a compiler are here: npx qwen3 build')
  }
  if (problems === 0) await checkModel(good, bad)
  if (problems > 0) process.exitCode = exitCode.failure
}

/** No GPU is no problem: the CPU is there. */
function devices(): string {
  const { devices: found, reason } = loadAddon().cudaReport()
  const names = found.map((gpu) => `cuda:${gpu.index} (${gpu.name}${gpu.reason && `: ${gpu.reason}`})`)
  return ['cpu', ...names].join(', ') + (found.length === 0 ? `; no GPU: ${reason}` : '')
}

async function checkModel(
  good: (label: string, text: string) => void,
  bad: (label: string, text: string) => void,
): Promise<void> {
  try {
    const start = performance.now()
    const model = await Qwen3.load('nano')
    const { text } = await model.chat('What is 12+30-7?', { seed: 1 }).result()
    await model.close()
    const answer = `${JSON.stringify(text)} in ${(performance.now() - start).toFixed(0)} ms`
    if (text.match(/\d+/g)?.at(-1) === '35') good('nano', answer)
    else bad('nano', `${answer}, but 12+30-7 is 35: please report this with the lines above`)
  } catch (error) {
    bad('nano', (error as Error).message)
  }
}

/** The C library's version, which decides whether a prebuilt addon fits. */
function libc(): string {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  if (process.platform !== 'linux') return ''
  return header.glibcVersionRuntime ? `, glibc ${header.glibcVersionRuntime}` : ', musl'
}

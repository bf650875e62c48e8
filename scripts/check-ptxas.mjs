// What ptxas reported while libqwen3_cuda.so was built (build folder/cuda/*.o.log): no kernel may spill registers, none but those
// named here may have a stack frame, and no wgmma may be serialised. The hot kernels must be there by name for every architecture, so that none leaves the check
// unseen. Prints registers and shared memory of each. Run by `npm run test:cuda`.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

/** Names that some kernel of every architecture must contain; `from`: the least architecture that has a body for it. */
const hot = [
  'decode_kernel',
  'prefill_kernel',
  'linear_kernel',
  'stream_kernel',
  'hopper',
  'expert_tiles_kernel',
  'expert_stream_kernel',
  'moe_hopper_kernel',
  'moe_hopper_swapped_kernel',
  'route_kernel',
  'rms_norm',
  'qk_norm_rope',
  'sample_kernel',
]
/** Angles in f64: the reduction of large arguments keeps its digits of 2/pi in a table on the stack; once per step and row. */
const withStack = ['begin_step']

/** `{ kernel, architecture, registers, stack, spills, shared }` for every entry of a log. */
export function readLog(text) {
  const found = []
  let entry
  for (const line of text.split('\n')) {
    const begin = /Compiling entry function '([^']+)' for '(sm_\w+)'/.exec(line)
    if (begin) {
      entry = { kernel: readable(begin[1]), architecture: begin[2] }
      found.push(entry)
    }
    if (!entry) continue
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    // Functions that a kernel calls are reported behind it: they count as its own.
    if (frame) {
      entry.stack = Math.max(entry.stack ?? 0, Number(frame[1]))
      entry.spills = (entry.spills ?? 0) + Number(frame[2]) + Number(frame[3])
    }
    const used = /Used (\d+) registers/.exec(line)
    if (used) entry.registers = Number(used[1])
  }
  return found
}

/** What ptxas says of wgmma that it could not leave asynchronous (its message C7510 and the like), as sentences. */
export function performanceLosses(text) {
  return text.split('\n').filter((line) => /Potential Performance Loss|serialized/i.test(line))
}

/** The identifiers in a mangled name, joined: enough to tell kernels apart. */
function readable(mangled) {
  const names = []
  let rest = mangled
  for (let match = /\d+/.exec(rest); match; match = /\d+/.exec(rest)) {
    const at = match.index + match[0].length
    const length = Number(match[0])
    const name = rest.slice(at, at + length)
    if (name.length === length && /^[A-Za-z_]\w*$/.test(name)) {
      if (!/^(_GLOBAL__N|qwen3|cuda)/.test(name) && !/^_/.test(name)) names.push(name)
      rest = rest.slice(at + length)
    } else rest = rest.slice(at)
  }
  return names[0] ? [names[0], ...(/IL[bijm](\d+)E/.exec(mangled)?.slice(1) ?? [])].join(' ') : mangled
}

/** What is wrong, as sentences. */
export function judge(entries, architectures) {
  const problems = []
  for (const entry of entries) {
    const name = `${entry.kernel} for ${entry.architecture}`
    if (entry.stack === undefined || entry.registers === undefined) problems.push(`${name}: ptxas reported nothing`)
    else if (entry.spills > 0) problems.push(`${name} spills ${entry.spills} bytes`)
    else if (entry.stack > 0 && !withStack.some((allowed) => entry.kernel.includes(allowed)))
      problems.push(`${name} has a stack frame of ${entry.stack} bytes`)
  }
  for (const architecture of architectures)
    for (const name of hot)
      if (!entries.some((entry) => entry.architecture === architecture && entry.kernel.includes(name)))
        problems.push(`no kernel named ${name} was compiled for ${architecture}`)
  return problems
}

/** Returns whether the logs of a build folder pass; prints what does not, and a line for each kernel. */
export function checkPtxas(folder, architectures) {
  const logs = readdirSync(join(folder, 'cuda')).filter((name) => name.endsWith('.o.log'))
  const texts = logs.map((name) => readFileSync(join(folder, 'cuda', name), 'utf8'))
  const entries = texts.flatMap(readLog)
  for (const { kernel, architecture, registers, stack } of entries)
    console.log(
      `ptxas: ${architecture} ${kernel}: ${registers} registers${stack > 0 ? `, ${stack} bytes of stack` : ''}`,
    )
  const problems = [...judge(entries, architectures), ...texts.flatMap(performanceLosses)]
  for (const problem of problems) console.error(`ptxas: ${problem}`)
  return problems.length === 0
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [folder, ...architectures] = process.argv.slice(2)
  if (!folder) throw new Error('usage: check-ptxas.mjs BUILD_FOLDER [sm_80 sm_90a]')
  process.exitCode = checkPtxas(folder, architectures) ? 0 : 1
}

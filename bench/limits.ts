/**
 * `npm run bench:limits`: what this machine can do at most, in a few seconds: bytes read from memory per second with one thread
 * to all of them, and multiply-adds per second in f32, bf16 and int8 for each instruction set that it has. Every figure of
 * the other benchmarks stands beside a fraction of these. Writes bench/results/limits.json.
 *
 * Options: --threads N (default: all), --out FOLDER
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { benchProgram } from './models/tensor-tool'
import { environment, repository } from './support/environment'

interface Limits {
  threads: number
  read: { threads: number; gigabytesPerSecond: number; pattern: object }[]
  arithmetic: { isa: string; f32Gflops: number; bf16Gflops: number; int8Gops: number; int4Gops: number }[]
}

const { values: flags } = parseArgs({
  options: {
    threads: { type: 'string' },
    out: { type: 'string', default: join(repository, 'bench/results') },
  },
})

const output = execFileSync(benchProgram('limits_tool'), flags.threads ? ['--threads', flags.threads] : [], {
  encoding: 'utf8',
})
const limits = JSON.parse(output) as Limits
for (const { threads, gigabytesPerSecond, pattern } of limits.read)
  console.log(`read, ${threads} threads: ${gigabytesPerSecond.toFixed(1)} GB/s  ${JSON.stringify(pattern)}`)
for (const { isa, f32Gflops, bf16Gflops, int8Gops, int4Gops } of limits.arithmetic) {
  const rates = { f32: f32Gflops, bf16: bf16Gflops, int8: int8Gops, int4: int4Gops }
  const known = Object.entries(rates).filter(([, rate]) => rate > 0)
  console.log(`${isa.padEnd(11)} ${known.map(([name, rate]) => `${name} ${rate.toFixed(0)}`).join(', ')} GOP/s`)
}
mkdirSync(flags.out, { recursive: true })
writeFileSync(join(flags.out, 'limits.json'), `${JSON.stringify({ ...environment(), ...limits }, null, 2)}\n`)

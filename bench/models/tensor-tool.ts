/** The native tools of the benchmarks (bench/native), built when they are needed, and the one that writes large tensors. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { repository } from '../support/environment'

/** QWEN3_BENCH_BUILD: another build folder, for a build with other options. */
const folder = process.env.QWEN3_BENCH_BUILD ?? join(repository, 'build-bench')

/** Path of a program of bench/native; the first call of a process builds it. */
export function benchProgram(name: 'limits_tool' | 'tensor_tool' | 'cpu_bench'): string {
  if (!built.has(name)) {
    if (!existsSync(join(folder, 'CMakeCache.txt')))
      execFileSync('cmake', ['-S', repository, '-B', folder, '-DQWEN3_ADDON=OFF', '-DQWEN3_BENCH=ON'], {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
    execFileSync('cmake', ['--build', folder, '--parallel', '2', '--target', name], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    built.add(name)
  }
  return join(folder, name)
}
const built = new Set<string>()

/** Element types of bench/native/gguf_formats.h: elements and bytes of a block. */
export const elementTypes = {
  F32: { id: 0, elements: 1, bytes: 4 },
  Q4_0: { id: 2, elements: 32, bytes: 18 },
  Q5_0: { id: 6, elements: 32, bytes: 22 },
  Q8_0: { id: 8, elements: 32, bytes: 34 },
  Q4_K: { id: 12, elements: 256, bytes: 144 },
  Q6_K: { id: 14, elements: 256, bytes: 210 },
  BF16: { id: 30, elements: 1, bytes: 2 },
} as const
export type ElementType = keyof typeof elementTypes
/** Formats of this library: values can be rounded to them, their bytes are its own. */
export type OwnType = 'int8' | 'int4' | 'int4-offset'

/** A matrix somewhere, in the notation of tensor_tool.cc; `cols` 0 = a vector. */
export interface Source {
  rows: number
  cols: number
  text: string
}

export const fileSource = (dtype: string, rows: number, cols: number, offset: number, path: string): Source => ({
  rows,
  cols,
  text: `file:${dtype}:${rows}:${cols}:${offset}:${path}`,
})

/** The tensor of a `random:` model of that seed; `cols` 0 = a vector. */
export const randomSource = (seed: number, rows: number, cols: number, name: string): Source => ({
  rows,
  cols,
  text: `random:${seed}:${rows}:${cols}:${name}`,
})

export interface PlannedTensor {
  type: ElementType | OwnType
  /** Write the values that `type` decodes to, as f32. */
  decoded?: boolean
  /** In the file. */
  offset: number
  /** Stacked along rows. */
  sources: Source[]
}

export const elementsOf = (sources: Source[]): number =>
  sources.reduce((sum, { rows, cols }) => sum + rows * Math.max(cols, 1), 0)

/** Bytes of `sources` stored as `type`. */
export function storedBytes(type: ElementType, sources: Source[]): number {
  const { elements, bytes } = elementTypes[type]
  return (elementsOf(sources) / elements) * bytes
}

/** Fills in the tensors of a file that has its header already. */
export function writeTensors(path: string, tensors: PlannedTensor[]): void {
  const plan = tensors.map(({ type, decoded, offset, sources }) =>
    [type, decoded ? 'decoded' : 'encoded', offset, ...sources.map(({ text }) => text)].join('\t'),
  )
  execFileSync(benchProgram('tensor_tool'), [path], {
    input: `${plan.join('\n')}\n`,
    stdio: ['pipe', 'inherit', 'inherit'],
  })
}

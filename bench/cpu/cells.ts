/** What the comparison measures: shapes, formats and tasks, and the least time that each of them needs. */
import type { GgufFormat } from '../models/gguf'
import { activeWeights, type ShapeName, shapes } from '../models/synthetic'

/** Formats of this library, and the peer's of as many bits. */
export const formats = {
  bf16: 'BF16',
  int8: 'Q8_0',
  int4: 'Q4_0',
  'int4-offset': 'Q4_K_M',
} as const satisfies Record<string, GgufFormat>
export type Format = keyof typeof formats

export interface Task {
  kind: 'load' | 'prefill' | 'decode'
  /** Tokens of the prompt, tokens generated after it, sequences at once. */
  context: number
  tokens: number
  batch: number
  /** Measurements in one process. */
  repeats: number
  /** As the README says it. */
  title: string
}

export const tasks = {
  prefill512: { kind: 'prefill', context: 512, tokens: 0, batch: 1, repeats: 2, title: 'prefill 512' },
  decode512: { kind: 'decode', context: 512, tokens: 128, batch: 1, repeats: 1, title: 'decode after 512' },
  batch16: { kind: 'decode', context: 512, tokens: 64, batch: 16, repeats: 1, title: 'decode, batch 16' },
  load: { kind: 'load', context: 512, tokens: 32, batch: 1, repeats: 1, title: 'load and memory' },
  batch4: { kind: 'decode', context: 512, tokens: 128, batch: 4, repeats: 1, title: 'decode, batch 4' },
  prefill4096: { kind: 'prefill', context: 4096, tokens: 0, batch: 1, repeats: 1, title: 'prefill 4096' },
  decode8192: { kind: 'decode', context: 8192, tokens: 128, batch: 1, repeats: 1, title: 'decode after 8192' },
} as const satisfies Record<string, Task>
export type TaskName = keyof typeof tasks

export interface Cell {
  shape: ShapeName
  format: Format
  task: TaskName
}

export const cellName = ({ shape, format, task }: Cell): string => `${shape}/${format}/${task}`

/** Keys and values of one token, bytes: both engines hold 16-bit numbers. */
export const cacheBytesPerToken = (shape: ShapeName): number => {
  const { layers, kvHeads, headDim } = shapes[shape]
  return layers * kvHeads * headDim * 2 * 2
}

/** Bits a weight, scales included; the router of a mixture stays wider on both sides. */
export const bitsOf: Record<Format, number> = { bf16: 16, int8: 8.25, int4: 4.5, 'int4-offset': 4.75 }

/** Limits of the machine that a floor is made of. */
export interface Roofs {
  readGigabytesPerSecond: number
  /** Before and after the cell; the highest is the one above. */
  readSamples?: number[]
  bf16Gflops: number
  int8Gops: number
  /** Missing in results before it was measured apart. */
  int4Gops?: number
}

/**
 * The most tokens per second that the machine allows: bytes that a step must read over the bandwidth for decoding (weights
 * once, keys and values of every sequence; of the experts those that `batch` sequences are expected to touch), arithmetic over
 * its peak for prefill (linear operations at the rate of the format, attention at that of bf16, the head once).
 */
export function ceiling({ shape, task }: Cell, bits: number, roofs: Roofs): number {
  const { layers, qHeads, headDim, experts, topK } = shapes[shape]
  const active = activeWeights(shapes[shape])
  const { kind, context, tokens, batch } = tasks[task]
  if (kind === 'prefill') {
    const linear = 2 * context * (active.layers + active.experts + active.router) + 2 * active.head
    const attention = (4 * layers * qHeads * headDim * context * (context + 1)) / 2
    const integer = bits < 8 ? (roofs.int4Gops ?? roofs.int8Gops) : roofs.int8Gops
    const peak = 1e9 * (bits < 16 ? Math.max(integer, roofs.bf16Gflops) : roofs.bf16Gflops)
    return context / (linear / peak + attention / (1e9 * roofs.bf16Gflops))
  }
  const touched = experts === 0 ? 0 : (experts / topK) * (1 - (1 - topK / experts) ** batch)
  const weights = active.layers + active.head + active.experts * touched
  const cache = batch * (context + tokens / 2) * cacheBytesPerToken(shape)
  const bytes = (weights * bits) / 8 + active.router * 2 + cache
  return (batch * 1e9 * roofs.readGigabytesPerSecond) / bytes
}

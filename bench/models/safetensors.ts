/** Reads the header of a safetensors file, and writes files of tensors that tensor_tool makes. */
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs'
import { type ElementType, fileSource, type OwnType, type Source, storedBytes, writeTensors } from './tensor-tool'

/** Every tensor of `path` as a source; vectors have one row. */
export function readSafetensors(path: string): Map<string, Source> {
  const file = openSync(path, 'r')
  try {
    const prefix = Buffer.alloc(8)
    readSync(file, prefix, 0, 8, 0)
    const length = Number(prefix.readBigUInt64LE())
    const bytes = Buffer.alloc(length)
    readSync(file, bytes, 0, length, 8)
    const header = JSON.parse(bytes.toString('utf8')) as Record<
      string,
      { dtype: string; shape: number[]; data_offsets: [number, number] }
    >
    const tensors = new Map<string, Source>()
    for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue
      const [rows, cols] = shape.length === 1 ? [1, shape[0]!] : (shape as [number, number])
      tensors.set(name, fileSource(dtype, rows, cols, 8 + length + data_offsets[0], path))
    }
    return tensors
  } finally {
    closeSync(file)
  }
}

export interface NewTensor {
  name: string
  /** What is written in the header: rows and columns, or one dimension. */
  shape: number[]
  /** `decoded`: rounded to this type, stored as f32. */
  type: ElementType | OwnType
  decoded?: boolean
  source: Source
}

/** Writes tensors as BF16 or F32, or as f32 values that went through another type. */
export function writeSafetensors(path: string, tensors: NewTensor[]): void {
  const header: Record<string, object> = { __metadata__: { format: 'pt' } }
  let end = 0
  const offsets = tensors.map(({ name, shape, type, decoded, source }) => {
    const stored = decoded ? 'F32' : type
    if (stored !== 'BF16' && stored !== 'F32') throw new TypeError(`${stored} is no type of safetensors files`)
    const begin = end
    end += storedBytes(stored, [source])
    header[name] = { dtype: stored, shape, data_offsets: [begin, end] }
    return begin
  })
  // Names are ASCII. The tensors begin at a multiple of 64.
  const json = JSON.stringify(header)
  const text = json.padEnd(Math.ceil((8 + json.length) / 64) * 64 - 8)
  const head = Buffer.alloc(8 + text.length)
  head.writeBigUInt64LE(BigInt(head.length - 8))
  head.write(text, 8)
  writeFileSync(path, head)
  writeTensors(
    path,
    tensors.map(({ type, decoded, source }, i) => ({
      type,
      decoded,
      offset: head.length + offsets[i]!,
      sources: [source],
    })),
  )
}

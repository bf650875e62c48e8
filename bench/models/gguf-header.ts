/** Metadata and tensor infos of a GGUF file, version 3 of its specification: everything before the tensors' bytes. */
import { type ElementType, elementTypes } from './tensor-tool'

export type Value =
  | { type: 'u32' | 'f32' | 'i32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: string[] }
  | { type: 'i32s'; value: number[] }

export interface TensorInfo {
  name: string
  /** Rows first, as everywhere else here; the file has them the other way round. */
  shape: number[]
  type: ElementType
  /** From the end of the header. */
  offset: number
}

/** Every tensor begins at a multiple of it. */
export const ALIGNMENT = 32

const typeIds = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const

class Writer {
  private readonly chunks: Buffer[] = []
  private length = 0

  raw(buffer: Buffer): void {
    this.chunks.push(buffer)
    this.length += buffer.length
  }
  u32(value: number): void {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value)
    this.raw(bytes)
  }
  u64(value: number): void {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(BigInt(value))
    this.raw(bytes)
  }
  string(value: string): void {
    const bytes = Buffer.from(value, 'utf8')
    this.u64(bytes.length)
    this.raw(bytes)
  }
  pad(): void {
    this.raw(Buffer.alloc((ALIGNMENT - (this.length % ALIGNMENT)) % ALIGNMENT))
  }
  bytes(): Buffer {
    return Buffer.concat(this.chunks)
  }
}

function writeValue(out: Writer, { type, value }: Value): void {
  if (type === 'strings' || type === 'i32s') {
    out.u32(typeIds.array)
    out.u32(type === 'strings' ? typeIds.string : typeIds.i32)
    out.u64(value.length)
    if (type === 'i32s') out.raw(Buffer.from(Int32Array.from(value).buffer))
    else for (const text of value) out.string(text)
    return
  }
  out.u32(typeIds[type])
  if (type === 'string') out.string(value)
  else if (type === 'bool') out.raw(Buffer.from([value ? 1 : 0]))
  else if (type === 'f32') out.raw(Buffer.from(Float32Array.of(value).buffer))
  else out.raw(Buffer.from(Int32Array.of(value).buffer))
}

export function ggufHeader(metadata: [string, Value][], tensors: TensorInfo[]): Buffer {
  const out = new Writer()
  out.raw(Buffer.from('GGUF'))
  out.u32(3)
  out.u64(tensors.length)
  out.u64(metadata.length)
  for (const [key, entry] of metadata) {
    out.string(key)
    writeValue(out, entry)
  }
  for (const { name, shape, type, offset } of tensors) {
    out.string(name)
    out.u32(shape.length)
    for (const size of shape.toReversed()) out.u64(size)
    out.u32(elementTypes[type].id)
    out.u64(offset)
  }
  out.pad()
  return out.bytes()
}

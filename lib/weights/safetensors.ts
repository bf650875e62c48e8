import { Qwen3Error } from '../errors'
import { decodeUtf8, type FileStamp, type Readable, readExactly } from './files'
import { type Json, type JsonObject, parseJsonObject } from './json'

/** One entry of a safetensors header. */
export interface StoredTensor {
  name: string
  /** As the file spells it: `BF16`, `F8_E4M3`, ... */
  dtype: string
  shape: number[]
  /** Bytes from the start of the file. */
  offset: number
  bytes: number
}

/** The reference implementation's limit. */
export const MAX_HEADER_BYTES = 100_000_000
const MAX_DIMENSIONS = 8

/** Bits per element of every element type that the format defines. */
const DTYPE_BITS: ReadonlyMap<string, number> = new Map([
  ['F64', 64],
  ['F32', 32],
  ['F16', 16],
  ['BF16', 16],
  ['C64', 64],
  ['I64', 64],
  ['I32', 32],
  ['I16', 16],
  ['I8', 8],
  ['U64', 64],
  ['U32', 32],
  ['U16', 16],
  ['U8', 8],
  ['BOOL', 8],
  ['F8_E4M3', 8],
  ['F8_E5M2', 8],
  ['F8_E8M0', 8],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['F4', 4],
])

/**
 * Reads and checks the header of an open safetensors file; no tensor byte is read.
 *
 * Layout: u64 little-endian header length, the header (JSON: name -> {dtype, shape, data_offsets}), then the data.
 * Refused with `BAD_MODEL_FILE`: a header longer than the file or than 100 MB (before anything is allocated), duplicate
 * names, sizes that overflow or differ from the extent, extents outside the data, overlaps, holes, and data that no
 * tensor covers. An element type that the format does not define is `UNSUPPORTED`. Offsets need no alignment: the format
 * asks for none (older writers did not pad the header), and tensors are read into buffers of their own, never mapped.
 */
export async function readSafetensorsHeader(handle: Readable, stamp: FileStamp): Promise<StoredTensor[]> {
  const { path, size } = stamp
  if (size < 10) throw bad(path, `${size} bytes are too few for a safetensors file`)
  const prefix = await readExactly(handle, 0, 8, path)
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > BigInt(size - 8))
    throw bad(path, `says that its header has ${length} bytes, but the file has only ${size}`)
  if (length > BigInt(MAX_HEADER_BYTES))
    throw bad(path, `header of ${length} bytes; at most ${MAX_HEADER_BYTES} are read`)
  const headerBytes = Number(length)
  const header = await readExactly(handle, 8, headerBytes, path)
  if (header[0] !== 0x7b) throw bad(path, 'not a safetensors file: the header does not begin with "{"')
  const entries = await parseJsonObject(decodeUtf8(header, path), path, { maxDepth: 4 })
  const dataStart = 8 + headerBytes
  const tensors: StoredTensor[] = []
  for (const name of Object.keys(entries)) {
    if (name === '__metadata__') checkMetadata(entries[name]!, path)
    else tensors.push(readEntry(name, entries[name]!, dataStart, size, path))
  }
  checkCoverage(tensors, dataStart, size, path)
  return tensors
}

function checkMetadata(value: Json, path: string): void {
  if (!isObject(value) || !Object.values(value).every((item) => typeof item === 'string')) {
    throw bad(path, '__metadata__ must map strings to strings')
  }
}

function readEntry(name: string, entry: Json, dataStart: number, fileSize: number, path: string): StoredTensor {
  const fail = (problem: string) => bad(path, `tensor ${JSON.stringify(name.slice(0, 200))}: ${problem}`, name)
  if (!isObject(entry)) throw fail('the header entry is not an object')
  const unknown = Object.keys(entry).find((key) => key !== 'dtype' && key !== 'shape' && key !== 'data_offsets')
  if (unknown !== undefined) throw fail(`unknown key ${JSON.stringify(unknown.slice(0, 100))}`)
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string') throw fail('dtype must be a string')
  const bits = DTYPE_BITS.get(dtype)
  if (bits === undefined) {
    throw new Qwen3Error(
      'UNSUPPORTED',
      `${path}: tensor ${name}: element type ${JSON.stringify(dtype.slice(0, 40))} is not known.`,
      {
        subject: name,
      },
    )
  }
  if (!isSizes(shape) || shape.length > MAX_DIMENSIONS)
    throw fail(`shape must be at most ${MAX_DIMENSIONS} whole numbers`)
  if (!isSizes(offsets) || offsets.length !== 2) throw fail('data_offsets must be two whole numbers')
  const [begin, end] = offsets as [number, number]
  if (begin > end || end > fileSize - dataStart) {
    throw fail(
      `data_offsets [${begin}, ${end}] lie outside the ${fileSize - dataStart} bytes of data (truncated file?)`,
    )
  }
  // BigInt: the product of a hostile shape must not wrap or round.
  const bytes = shape.reduce((product, n) => product * BigInt(n), BigInt(bits))
  if (bytes % 8n !== 0n || bytes / 8n !== BigInt(end - begin)) {
    throw fail(`shape [${shape.join(', ')}] of ${dtype} does not fill its ${end - begin} bytes`)
  }
  return { name, dtype, shape, offset: dataStart + begin, bytes: end - begin }
}

/** Every byte of the data belongs to exactly one tensor. */
function checkCoverage(tensors: StoredTensor[], dataStart: number, fileSize: number, path: string): void {
  const sorted = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let covered = dataStart
  for (const tensor of sorted) {
    if (tensor.offset !== covered) {
      const problem = tensor.offset < covered ? 'overlaps the tensor before it' : 'begins after a hole in the data'
      throw bad(path, `tensor ${JSON.stringify(tensor.name.slice(0, 200))} ${problem}`, tensor.name)
    }
    covered += tensor.bytes
  }
  if (covered !== fileSize) throw bad(path, `${fileSize - covered} bytes at the end belong to no tensor`)
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSizes(value: Json | undefined): value is number[] {
  return Array.isArray(value) && value.every((n) => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0)
}

function bad(path: string, problem: string, subject = path): Qwen3Error {
  return new Qwen3Error('BAD_MODEL_FILE', `${path}: ${problem}.`, { subject: subject.slice(0, 300) })
}

/** The vocabulary as flat tables: the bytes of every token, and the merges in a hash table of token pairs. */
import { Qwen3Error } from '../errors'

/** The bytes of all tokens, one after another: token `id` is `bytes[offsets[id], offsets[id + 1])`. */
export interface ByteTable {
  bytes: Uint8Array
  /** [vocabSize + 1] */
  offsets: Uint32Array
}

/** A vocabulary and its merges before they become tables. */
export interface VocabularySource {
  /** Token text in the byte alphabet -> id. */
  vocab: Iterable<readonly [string, number]>
  /** Pairs in order of rank. */
  merges: Iterable<readonly [string, string]>
  addedTokens: readonly { id: number; content: string }[]
  /** Ids must be below; undefined: a bound derived from the number of tokens. */
  vocabLimit?: number
  /** The file, for messages. */
  file: string
}

/**
 * The printable character that stands for each byte in vocabulary files (GPT-2's byte alphabet): printable Latin-1
 * stands for itself, the other 68 bytes take the characters from U+0100 on, in order.
 */
const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae
const BYTE_TO_CHAR: readonly string[] = (() => {
  let next = 0x100
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++))
})()
/** Byte by character code, or -1. [0x144] */
const CHAR_TO_BYTE = new Int16Array(0x144).fill(-1)
BYTE_TO_CHAR.forEach((char, byte) => {
  CHAR_TO_BYTE[char.charCodeAt(0)] = byte
})

/** The text of bytes in the byte alphabet. */
export const toByteAlphabet = (bytes: Uint8Array) => Array.from(bytes, (b) => BYTE_TO_CHAR[b]).join('')

/** Slots of the merge table hold left id, right id, rank, and nothing: four to a cache line. */
const SLOT = 4
/** The rank of pairs that do not merge: above all ranks. */
export const NO_MERGE = 0x7fffffff

export class Vocabulary {
  /** One above the highest id. */
  readonly size: number
  /** Ids from `size` to here are rows of the model without a token. */
  readonly limit: number
  readonly table: ByteTable
  /** 1 where the id has a token. [size] */
  readonly known: Uint8Array
  /** Id of the token that is one byte. [256] */
  readonly byteToId = new Int32Array(256)
  /** Open addressing over {@link hashPair}; the left id of a free slot is -1. [slots * 4] */
  private readonly mergeTable: Int32Array
  private readonly mergeMask: number
  /** Rank of the merge of two byte tokens, by `first << 8 | second`. [65536] */
  readonly bytePairRank = new Int32Array(65536)
  /** The id that a merge makes, by rank. [mergeCount] */
  readonly mergedId: Int32Array
  /** Bit `right & 31` is set when the token merges with a right one of that kind: most look-ups end here. [size] */
  private readonly rightKinds: Int32Array
  /** The same for the left ones of a right token. [size] */
  private readonly leftKinds: Int32Array

  constructor(source: VocabularySource) {
    const { file } = source
    const ids = new Map<string, number>()
    let size = 0
    for (const [text, id] of source.vocab) {
      if (!Number.isInteger(id) || id < 0) throw bad(file, `model.vocab: the id of ${quote(text)} is ${String(id)}`)
      ids.set(text, id)
      if (id >= size) size = id + 1
    }
    for (const { id } of source.addedTokens) if (id >= size) size = id + 1
    const tokens = ids.size + source.addedTokens.length
    const limit = source.vocabLimit ?? 4 * tokens + 4096
    if (size > limit) {
      const bound = source.vocabLimit === undefined ? `${tokens} tokens` : `a vocab_size of ${limit}`
      throw bad(file, `model.vocab: id ${size - 1} does not go with ${bound}`)
    }
    this.size = size
    this.limit = source.vocabLimit ?? size
    this.known = new Uint8Array(size)
    this.table = this.buildBytes(ids, source)
    this.findByteTokens(ids, file)
    const merges = this.resolveMerges(ids, source)
    const count = merges.length / 3
    this.mergedId = new Int32Array(count)
    this.rightKinds = new Int32Array(size)
    this.leftKinds = new Int32Array(size)
    // At most half full, so that most look-ups end at their first slot.
    let slots = 1024
    while (slots < count * 2) slots *= 2
    this.mergeMask = slots - 1
    this.mergeTable = new Int32Array(slots * SLOT).fill(-1)
    for (let rank = 0; rank < count; rank++) {
      this.mergedId[rank] = merges[rank * 3 + 2]!
      this.insertMerge(merges[rank * 3]!, merges[rank * 3 + 1]!, rank)
    }
    for (let pair = 0; pair < 65536; pair++) {
      this.bytePairRank[pair] = this.mergeRank(this.byteToId[pair >> 8]!, this.byteToId[pair & 255]!)
    }
  }

  /** The rank of the merge of two tokens, or {@link NO_MERGE}. */
  mergeRank(left: number, right: number): number {
    if (((this.rightKinds[left]! >>> (right & 31)) & (this.leftKinds[right]! >>> (left & 31)) & 1) === 0)
      return NO_MERGE
    const { mergeTable, mergeMask } = this
    for (let slot = hashPair(left, right) & mergeMask; ; slot = (slot + 1) & mergeMask) {
      const at = slot * SLOT
      const key = mergeTable[at]!
      if (key === left && mergeTable[at + 1] === right) return mergeTable[at + 2]!
      if (key === -1) return NO_MERGE
    }
  }

  private buildBytes(ids: Map<string, number>, source: VocabularySource): ByteTable {
    const { file } = source
    const texts: (string | undefined)[] = new Array(this.size)
    let total = 0
    for (const [text, id] of ids) {
      if (texts[id] !== undefined) {
        throw bad(file, `model.vocab: id ${id} belongs to both ${quote(texts[id])} and ${quote(text)}`)
      }
      if (text === '') throw bad(file, `model.vocab: token ${id} is empty`)
      texts[id] = text
      this.known[id] = 1
      total += text.length
    }
    const added = new Map<number, Uint8Array>()
    const encoder = new TextEncoder()
    for (const { id, content } of source.addedTokens) {
      if (texts[id] !== undefined && texts[id] !== content) {
        throw bad(file, `added_tokens: id ${id} of ${quote(content)} belongs to ${quote(texts[id])} in model.vocab`)
      }
      const other = ids.get(content)
      if (other !== undefined && other !== id) {
        throw bad(file, `added_tokens: ${quote(content)} has id ${id}, but ${other} in model.vocab`)
      }
      const bytes = encoder.encode(content)
      added.set(id, bytes)
      this.known[id] = 1
      total += bytes.length
    }
    const bytes = new Uint8Array(total)
    const offsets = new Uint32Array(this.size + 1)
    let at = 0
    for (let id = 0; id < this.size; id++) {
      offsets[id] = at
      const fixed = added.get(id)
      const text = texts[id]
      if (fixed) {
        bytes.set(fixed, at)
        at += fixed.length
      } else if (text !== undefined) {
        at = writeBytes(text, bytes, at, file)
      }
    }
    offsets[this.size] = at
    return { bytes: bytes.subarray(0, at), offsets }
  }

  private findByteTokens(ids: Map<string, number>, file: string): void {
    for (let byte = 0; byte < 256; byte++) {
      const id = ids.get(BYTE_TO_CHAR[byte]!)
      if (id === undefined) {
        throw bad(
          file,
          `model.vocab: no token for byte 0x${byte.toString(16).padStart(2, '0')} (${BYTE_TO_CHAR[byte]})`,
        )
      }
      this.byteToId[byte] = id
    }
  }

  /** Merges as triples left, right, merged, in order of rank. */
  private resolveMerges(ids: Map<string, number>, source: VocabularySource): Int32Array {
    const { file } = source
    let triples = new Int32Array(3 * 1024)
    let at = 0
    for (const [left, right] of source.merges) {
      if (at === triples.length) {
        const larger = new Int32Array(at * 2)
        larger.set(triples)
        triples = larger
      }
      const rank = at / 3
      for (const part of [left, right, left + right]) {
        const id = ids.get(part)
        if (id === undefined) {
          throw bad(
            file,
            `model.merges[${rank}] (${quote(`${left} ${right}`)}): ${quote(part)} is not in the vocabulary`,
          )
        }
        triples[at++] = id
      }
    }
    return triples.subarray(0, at)
  }

  /** A pair that is listed twice keeps its last rank, as in the oracle. */
  private insertMerge(left: number, right: number, rank: number): void {
    const { mergeTable, mergeMask } = this
    let slot = hashPair(left, right) & mergeMask
    while (mergeTable[slot * SLOT] !== -1) {
      if (mergeTable[slot * SLOT] === left && mergeTable[slot * SLOT + 1] === right) break
      slot = (slot + 1) & mergeMask
    }
    mergeTable[slot * SLOT] = left
    mergeTable[slot * SLOT + 1] = right
    mergeTable[slot * SLOT + 2] = rank
    this.rightKinds[left]! |= 1 << (right & 31)
    this.leftKinds[right]! |= 1 << (left & 31)
  }
}

function hashPair(left: number, right: number): number {
  const h = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
  return h ^ (h >>> 15)
}

function writeBytes(text: string, bytes: Uint8Array, at: number, file: string): number {
  for (let i = 0; i < text.length; i++) {
    const byte = CHAR_TO_BYTE[text.charCodeAt(i)] ?? -1
    if (byte < 0) {
      const code = text.codePointAt(i)!.toString(16).toUpperCase().padStart(4, '0')
      throw bad(file, `model.vocab: ${quote(text)} holds U+${code}, which stands for no byte`)
    }
    bytes[at++] = byte
  }
  return at
}

/** Text from a file in a message: bounded, control characters escaped. */
export const quote = (text: string) => JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)

/** The error of a damaged tokenizer file. */
export const bad = (file: string, problem: string) =>
  new Qwen3Error('BAD_MODEL_FILE', `${file}: ${problem}`, { subject: file })

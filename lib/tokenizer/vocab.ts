/** The vocabulary as flat tables: the bytes of every token, and the merges in a hash table of token pairs. */
/** The bytes of all tokens, one after another: token `id` is `bytes[offsets[id], offsets[id + 1])`. */
export interface ByteTable {
  bytes: Uint8Array
  /** [vocabSize + 1] */
  offsets: Uint32Array
}

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
  readonly byteToId: Int32Array
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

  constructor(tokens: ByteTable & { known: Uint8Array }, limit: number, byteToId: Int32Array, mergeCount: number) {
    const { bytes, offsets, known } = tokens
    this.size = known.length
    this.limit = limit
    this.table = { bytes, offsets }
    this.known = known
    this.byteToId = byteToId
    this.mergedId = new Int32Array(mergeCount)
    this.rightKinds = new Int32Array(this.size)
    this.leftKinds = new Int32Array(this.size)
    // At most half full, so that most look-ups end at their first slot.
    let slots = 1024
    while (slots < mergeCount * 2) slots *= 2
    this.mergeMask = slots - 1
    this.mergeTable = new Int32Array(slots * SLOT).fill(-1)
  }

  /** Adds a merge while the vocabulary is built. A pair that is listed twice keeps its last rank, as in the oracle. */
  addMerge(left: number, right: number, rank: number, merged: number): void {
    const { mergeTable, mergeMask } = this
    let slot = hashPair(left, right) & mergeMask
    while (mergeTable[slot * SLOT] !== -1) {
      if (mergeTable[slot * SLOT] === left && mergeTable[slot * SLOT + 1] === right) break
      slot = (slot + 1) & mergeMask
    }
    mergeTable[slot * SLOT] = left
    mergeTable[slot * SLOT + 1] = right
    mergeTable[slot * SLOT + 2] = rank
    this.mergedId[rank] = merged
    this.rightKinds[left]! |= 1 << (right & 31)
    this.leftKinds[right]! |= 1 << (left & 31)
  }

  /** Fills {@link bytePairRank} when all merges are known. */
  indexBytePairs(): void {
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
}

function hashPair(left: number, right: number): number {
  const h = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
  return h ^ (h >>> 15)
}

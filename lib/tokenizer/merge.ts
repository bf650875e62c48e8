/**
 * Byte-pair encoding of one word: of all adjacent pairs the one with the lowest rank is merged, the leftmost of
 * equals first, until no pair has a merge (Sennrich et al. 2016, section 3.2).
 */

import type { Vocabulary } from './vocab'
import * as vocab from './vocab'

const { NO_MERGE } = vocab

/** Up to this many symbols the next merge is found by scanning; above, by a heap. */
const SCAN_LIMIT = 24

/** Merges words into ids. One instance serves one call at a time; its arrays are kept between calls. */
export class Merger {
  /** Symbols of the word after {@link merge}: the first `length` are its ids. */
  ids: Int32Array = new Int32Array(256)
  /** Rank of the pair of symbols i and i + 1, for words up to SCAN_LIMIT. */
  private readonly ranks = new Int32Array(SCAN_LIMIT)

  constructor(private readonly vocabulary: Vocabulary) {}

  /** Merges `bytes[0, length)` and returns the number of ids. */
  merge(bytes: Uint8Array, length: number): number {
    if (length <= SCAN_LIMIT) return this.mergeByScan(bytes, length)
    const long = new LongMerge(this.vocabulary, bytes, length)
    long.run(Number.POSITIVE_INFINITY)
    if (this.ids.length < length) this.ids = new Int32Array(length)
    return long.write(this.ids, 0, length)
  }

  private mergeByScan(bytes: Uint8Array, length: number): number {
    const { ids, ranks, vocabulary } = this
    const { byteToId, bytePairRank, mergedId } = vocabulary
    ids[0] = byteToId[bytes[0]!]!
    let best = 0
    let rank = NO_MERGE
    for (let i = 1; i < length; i++) {
      ids[i] = byteToId[bytes[i]!]!
      const pair = bytePairRank[(bytes[i - 1]! << 8) | bytes[i]!]!
      ranks[i - 1] = pair
      if (pair < rank) {
        rank = pair
        best = i - 1
      }
    }
    let count = length
    while (rank !== NO_MERGE) {
      const merged = mergedId[rank]!
      ids[best] = merged
      count--
      for (let i = best + 1; i < count; i++) {
        ids[i] = ids[i + 1]!
        ranks[i - 1] = ranks[i]!
      }
      if (best > 0) ranks[best - 1] = vocabulary.mergeRank(ids[best - 1]!, merged)
      if (best < count - 1) ranks[best] = vocabulary.mergeRank(merged, ids[best + 1]!)
      rank = NO_MERGE
      for (let i = 0; i < count - 1; i++) {
        if (ranks[i]! < rank) {
          rank = ranks[i]!
          best = i
        }
      }
    }
    return count
  }
}

/** Positions in a heap key take the lower bits: rank * POSITIONS + position stays an exact double. */
const POSITIONS = 2 ** 31

/**
 * The same for long words, in n log n: symbols in a linked list, candidate pairs in a binary heap ordered by rank,
 * then position. It can stop after some steps and go on later, so that a hostile word never holds a thread.
 */
export class LongMerge {
  /** Symbol at each position of the linked list; -1: merged into its predecessor. [length] */
  private readonly ids: Int32Array
  private readonly next: Int32Array
  private readonly previous: Int32Array
  /** Binary min-heap of keys; each position has at most one live key, older ones are found stale. */
  private readonly heap: Float64Array
  private heapSize = 0
  private seeded = 0
  private written = 0
  /** Units of work done so far, for tests of linearity. */
  steps = 0

  constructor(
    private readonly vocabulary: Vocabulary,
    private readonly bytes: Uint8Array,
    private readonly length: number,
  ) {
    this.ids = new Int32Array(length)
    this.next = new Int32Array(length)
    this.previous = new Int32Array(length)
    // Every merge takes one key and adds two at most, so it holds fewer than twice the symbols.
    this.heap = new Float64Array(2 * length)
  }

  /** Does up to `budget` steps; true when the word is done. */
  run(budget: number): boolean {
    const stop = this.steps + budget
    while (this.seeded < this.length) {
      if (this.steps >= stop) return false
      this.seed(this.seeded++)
    }
    while (this.heapSize > 0) {
      if (this.steps >= stop) return false
      this.mergeNext()
    }
    return true
  }

  /** Writes up to `limit` more ids of the finished word and returns their number; 0: all were written. */
  write(out: Int32Array, at: number, limit: number): number {
    let count = 0
    let i = this.written
    for (; i < this.length && count < limit; i = this.next[i]!) out[at + count++] = this.ids[i]!
    this.written = i
    return count
  }

  private seed(i: number): void {
    const { bytes, vocabulary } = this
    this.steps++
    this.ids[i] = vocabulary.byteToId[bytes[i]!]!
    this.next[i] = i + 1
    this.previous[i] = i - 1
    if (i === 0) return
    const rank = vocabulary.bytePairRank[(bytes[i - 1]! << 8) | bytes[i]!]!
    if (rank !== NO_MERGE) this.push(rank * POSITIONS + i - 1)
  }

  private mergeNext(): void {
    const { ids, next, previous, vocabulary, length } = this
    const key = this.pop()
    const i = key % POSITIONS
    const rank = (key - i) / POSITIONS
    const j = ids[i]! < 0 ? length : next[i]!
    if (j >= length) return
    if (vocabulary.mergeRank(ids[i]!, ids[j]!) !== rank) return // stale
    ids[i] = vocabulary.mergedId[rank]!
    ids[j] = -1
    const after = next[j]!
    next[i] = after
    if (after < length) previous[after] = i
    if (i > 0) this.consider(previous[i]!, i)
    if (after < length) this.consider(i, after)
  }

  private consider(i: number, j: number): void {
    const rank = this.vocabulary.mergeRank(this.ids[i]!, this.ids[j]!)
    if (rank !== NO_MERGE) this.push(rank * POSITIONS + i)
  }

  private push(key: number): void {
    const { heap } = this
    let at = this.heapSize++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (heap[parent]! <= key) break
      heap[at] = heap[parent]!
      at = parent
      this.steps++
    }
    heap[at] = key
  }

  private pop(): number {
    const { heap } = this
    const top = heap[0]!
    const key = heap[--this.heapSize]!
    const size = this.heapSize
    let at = 0
    this.steps++
    for (;;) {
      let child = 2 * at + 1
      if (child >= size) break
      if (child + 1 < size && heap[child + 1]! < heap[child]!) child++
      if (heap[child]! >= key) break
      heap[at] = heap[child]!
      at = child
      this.steps++
    }
    heap[at] = key
    return top
  }
}

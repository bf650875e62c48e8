/**
 * Byte-pair encoding of one word: of all adjacent pairs the one with the lowest rank is merged, the leftmost of
 * equals first, until no pair has a merge (Sennrich et al. 2016, section 3.2).
 */
import type { Vocabulary } from './vocab'

/** Up to this many symbols the next merge is found by scanning; above, by a heap. */
const SCAN_LIMIT = 24
const NO_MERGE = 0x7fffffff

/** Merges words into ids. One instance serves one call at a time; its arrays are kept between calls. */
export class Merger {
  /** Symbols of the word after {@link merge}: the first `length` are its ids. */
  ids: Int32Array = new Int32Array(256)
  private ranks: Int32Array = new Int32Array(256)
  private merged: Int32Array = new Int32Array(256)

  constructor(private readonly vocabulary: Vocabulary) {}

  /** Merges `bytes[0, length)` and returns the number of ids. */
  merge(bytes: Uint8Array, length: number): number {
    if (length <= SCAN_LIMIT) return this.mergeByScan(bytes, length)
    const long = new LongMerge(this.vocabulary, bytes, length)
    long.run(Number.POSITIVE_INFINITY)
    if (this.ids.length < length) this.ids = new Int32Array(length)
    const count = long.write(this.ids)
    return count
  }

  private mergeByScan(bytes: Uint8Array, length: number): number {
    const { ids, ranks, merged, vocabulary } = this
    const { byteToId, bytePairs, mergeTable } = vocabulary
    ids[0] = byteToId[bytes[0]!]!
    for (let i = 1; i < length; i++) {
      ids[i] = byteToId[bytes[i]!]!
      const at = bytePairs[(bytes[i - 1]! << 8) | bytes[i]!]! - 1
      ranks[i - 1] = at < 0 ? NO_MERGE : mergeTable[at + 2]!
      merged[i - 1] = at < 0 ? 0 : mergeTable[at + 3]!
    }
    // ranks[i] and merged[i] describe the pair (i, i + 1); the last symbol has none.
    let count = length
    while (count > 1) {
      let best = 0
      let rank = ranks[0]!
      for (let i = 1; i < count - 1; i++) {
        if (ranks[i]! < rank) {
          rank = ranks[i]!
          best = i
        }
      }
      if (rank === NO_MERGE) break
      ids[best] = merged[best]!
      count--
      for (let i = best + 1; i < count; i++) {
        ids[i] = ids[i + 1]!
        ranks[i - 1] = ranks[i]!
        merged[i - 1] = merged[i]!
      }
      if (best > 0) this.lookUp(best - 1)
      if (best < count - 1) this.lookUp(best)
    }
    return count
  }

  private lookUp(i: number): void {
    const at = this.vocabulary.findMerge(this.ids[i]!, this.ids[i + 1]!)
    this.ranks[i] = at < 0 ? NO_MERGE : this.vocabulary.mergeTable[at + 2]!
    this.merged[i] = at < 0 ? 0 : this.vocabulary.mergeTable[at + 3]!
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
  private heap: Float64Array
  private heapSize = 0
  private seeded = 0
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
    this.heap = new Float64Array(length)
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

  /** Writes the ids of the finished word and returns their number. */
  write(out: Int32Array, at = 0): number {
    let count = 0
    for (let i = 0; i < this.length; i = this.next[i]!) out[at + count++] = this.ids[i]!
    return count
  }

  private seed(i: number): void {
    const { bytes, vocabulary } = this
    this.steps++
    this.ids[i] = vocabulary.byteToId[bytes[i]!]!
    this.next[i] = i + 1
    this.previous[i] = i - 1
    if (i === 0) return
    const at = vocabulary.bytePairs[(bytes[i - 1]! << 8) | bytes[i]!]! - 1
    if (at >= 0) this.push(vocabulary.mergeTable[at + 2]! * POSITIONS + i - 1)
  }

  private mergeNext(): void {
    const { ids, next, previous, vocabulary, length } = this
    const key = this.pop()
    const i = key % POSITIONS
    const rank = (key - i) / POSITIONS
    const j = ids[i]! < 0 ? length : next[i]!
    if (j >= length) return
    const at = vocabulary.findMerge(ids[i]!, ids[j]!)
    if (at < 0 || vocabulary.mergeTable[at + 2] !== rank) return // stale
    ids[i] = vocabulary.mergeTable[at + 3]!
    ids[j] = -1
    const after = next[j]!
    next[i] = after
    if (after < length) previous[after] = i
    if (i > 0) this.consider(previous[i]!, i)
    if (after < length) this.consider(i, after)
  }

  private consider(i: number, j: number): void {
    const at = this.vocabulary.findMerge(this.ids[i]!, this.ids[j]!)
    if (at >= 0) this.push(this.vocabulary.mergeTable[at + 2]! * POSITIONS + i)
  }

  private push(key: number): void {
    if (this.heapSize === this.heap.length) {
      const larger = new Float64Array(this.heapSize * 2)
      larger.set(this.heap)
      this.heap = larger
    }
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

/** Ids of the words met before, keyed by their UTF-16 units without making strings. */

const SLOTS = 1 << 16
const UNITS = 1 << 18
const IDS = 1 << 18
/** Slots hold hash, offset in `units`, length << 8 | number of ids, and the id or the offset in `ids`. */
const SLOT = 4

/** Bounded in memory (3.5 MB): when full it starts anew, so that one odd text cannot keep it useless. */
export class WordCache {
  private readonly slots = new Int32Array(SLOTS * SLOT)
  private readonly units = new Uint16Array(UNITS)
  private readonly ids = new Int32Array(IDS)
  private entries = 0
  private unitsUsed = 0
  private idsUsed = 0

  /** Hash of `units[start, end)`. */
  hash(units: Uint16Array, start: number, end: number): number {
    let h = end - start
    for (let i = start; i < end; i++) h = Math.imul(h ^ units[i]!, 0x9e3779b1) ^ (h >>> 15)
    return h ^ (h >>> 16)
  }

  /** Appends the ids of the word to `out` at `at` and returns their number; 0: not known. `out` has room for 255. */
  find(units: Uint16Array, start: number, end: number, hash: number, out: Int32Array, at: number): number {
    const { slots } = this
    const length = end - start
    for (let slot = hash & (SLOTS - 1); ; slot = (slot + 1) & (SLOTS - 1)) {
      const entry = slot * SLOT
      const sizes = slots[entry + 2]!
      if (sizes === 0) return 0
      if (slots[entry] !== hash || sizes >> 8 !== length) continue
      const kept = slots[entry + 1]!
      let i = 0
      while (i < length && this.units[kept + i] === units[start + i]) i++
      if (i < length) continue
      const count = sizes & 255
      const from = slots[entry + 3]!
      if (count === 1) out[at] = from
      else for (let k = 0; k < count; k++) out[at + k] = this.ids[from + k]!
      return count
    }
  }

  /** Keeps a word that {@link find} did not know. `count` is at most 255. */
  add(units: Uint16Array, start: number, end: number, hash: number, ids: Int32Array, count: number): void {
    const length = end - start
    const full = this.entries >= SLOTS / 2 || this.unitsUsed + length > UNITS || this.idsUsed + count > IDS
    if (full) this.clear()
    const { slots } = this
    let slot = hash & (SLOTS - 1)
    while (slots[slot * SLOT + 2] !== 0) slot = (slot + 1) & (SLOTS - 1)
    const entry = slot * SLOT
    slots[entry] = hash
    slots[entry + 1] = this.unitsUsed
    slots[entry + 2] = (length << 8) | count
    for (let i = start; i < end; i++) this.units[this.unitsUsed++] = units[i]!
    if (count === 1) {
      slots[entry + 3] = ids[0]!
    } else {
      slots[entry + 3] = this.idsUsed
      for (let k = 0; k < count; k++) this.ids[this.idsUsed++] = ids[k]!
    }
    this.entries++
  }

  private clear(): void {
    this.slots.fill(0)
    this.entries = 0
    this.unitsUsed = 0
    this.idsUsed = 0
  }
}

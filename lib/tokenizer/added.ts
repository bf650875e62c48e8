/** Added tokens: strings that become one id wherever they stand in the text, before it is normalised and split. */
import * as unicode from './unicode'

// Bound once: compiled code reads an import through its module's object, which is slow in hot loops.
const { classOf, SPACE } = unicode

/** An added token as `tokenizer.json` and `tokenizer_config.json` describe it. */
export interface AddedToken {
  id: number
  content: string
  /** Control tokens that a plain reading of the output leaves out. */
  special: boolean
  /** Takes the white space to its left with it. */
  lstrip: boolean
  /** Takes the white space to its right with it. */
  rstrip: boolean
  /** Does not match inside a word. */
  single_word: boolean
  /** Matched in the normalised text instead of the raw one. */
  normalized: boolean
}

/** One match: the text `[start, end)` becomes `id`. */
export interface Match {
  start: number
  end: number
  id: number
  /** Where the token itself ends, without stripped white space: the oracle looks for the next one from here. */
  resume: number
}

interface Node {
  next: Map<number, Node>
  token?: AddedToken
}

const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u

/** Finds the added tokens of one kind (raw or normalised), leftmost first and the longest of those. */
export class AddedTokenMatcher {
  private readonly root: Node = { next: new Map() }
  /** 1 for every unit that begins a token. [65536] */
  private readonly begins: Uint8Array | undefined

  constructor(tokens: readonly AddedToken[]) {
    if (tokens.length === 0) return
    this.begins = new Uint8Array(65536)
    for (const token of tokens) this.add(token)
  }

  get empty(): boolean {
    return this.begins === undefined
  }

  private add(token: AddedToken): void {
    let node = this.root
    for (let i = 0; i < token.content.length; i++) {
      const unit = token.content.charCodeAt(i)
      let next = node.next.get(unit)
      if (!next) {
        next = { next: new Map() }
        node.next.set(unit, next)
      }
      node = next
    }
    node.token = token
    this.begins![token.content.charCodeAt(0)] = 1
  }

  /**
   * The next match that begins in `units[from, stop)`, of a text `[base, end)` that is cut up to `taken` already. `literal`
   * holds ascending pairs [start, end) of offsets whose text belongs to no token; a match that touches one is passed over.
   */
  find(
    units: Uint16Array,
    { base, taken, from, stop, end: to }: { base: number; taken: number; from: number; stop: number; end: number },
    literal: ArrayLike<number>,
  ): Match | undefined {
    const { begins } = this
    if (!begins) return undefined
    for (let i = from; i < stop; i++) {
      if (begins[units[i]!] === 0) continue
      const token = this.longestAt(units, i, to, literal)
      if (!token) continue
      const end = i + token.content.length
      if (token.single_word && (isWordBefore(units, base, i) || isWordAfter(units, end, to))) {
        i = end - 1 // the oracle goes on after a match that it refused
        continue
      }
      return stretch(units, token, i, end, taken, to)
    }
    return undefined
  }

  private longestAt(units: Uint16Array, i: number, to: number, literal: ArrayLike<number>): AddedToken | undefined {
    const bound = literal.length === 0 ? to : Math.min(to, literalBound(literal, i))
    let node: Node | undefined = this.root
    let longest: AddedToken | undefined
    for (let j = i; j < bound; j++) {
      node = node.next.get(units[j]!)
      if (!node) break
      if (node.token) longest = node.token
    }
    return longest
  }
}

/** The end of what a match at `i` may take: `i` itself inside a literal range, else the start of the next one. */
function literalBound(literal: ArrayLike<number>, i: number): number {
  let low = 0
  let high = literal.length >> 1
  while (low < high) {
    const middle = (low + high) >> 1
    if (literal[2 * middle + 1]! <= i) low = middle + 1
    else high = middle
  }
  if (2 * low >= literal.length) return Number.POSITIVE_INFINITY
  return Math.max(i, literal[2 * low]!)
}

function stretch(units: Uint16Array, token: AddedToken, start: number, end: number, taken: number, to: number): Match {
  const resume = end
  if (token.lstrip) {
    while (start > taken && classOf[units[start - 1]!]! & SPACE) start--
    start = Math.max(start, taken)
  }
  if (token.rstrip) while (end < to && classOf[units[end]!]! & SPACE) end++
  return { start, end, id: token.id, resume }
}

function isWordBefore(units: Uint16Array, base: number, i: number): boolean {
  if (i === base) return false
  const paired = i > base + 1 && (units[i - 1]! & 0xfc00) === 0xdc00
  return WORD.test(String.fromCharCode(...units.subarray(i - (paired ? 2 : 1), i)))
}

function isWordAfter(units: Uint16Array, i: number, end: number): boolean {
  if (i >= end) return false
  const paired = i + 1 < end && (units[i]! & 0xfc00) === 0xd800
  return WORD.test(String.fromCharCode(...units.subarray(i, i + (paired ? 2 : 1))))
}

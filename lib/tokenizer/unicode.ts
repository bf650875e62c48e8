/**
 * Character classes and canonical (de)compositions of the oracle's Unicode versions, as flat tables. They are empty
 * until {@link fillTables} is called, as every tokenizer does.
 */
import { COMBINING_CLASSES, COMPOSITIONS, DECOMPOSITIONS, LETTERS, NUMBERS, SPACES } from './unicode-data'

/** Bits of {@link classOf}. A code point without a kind bit is punctuation, a symbol, a mark, or unassigned. */
export const LETTER = 1
export const NUMBER = 2
export const SPACE = 4
/** CR or LF; always together with {@link SPACE}. */
export const NEWLINE = 8
/** Half of a surrogate pair: the class is that of the whole code point. */
export const SURROGATE = 16
/** A combining mark: it may be out of canonical order. */
export const MARK = 32
/** The code point decomposes, or it may compose with what precedes it: text with it may not be in NFC. */
export const NFC_MAYBE = 64

/** Class bits by code point; surrogates carry {@link SURROGATE}. [0x110000] */
export const classOf = new Uint8Array(0x110000)
/** Rank of the combining class by code point, 0 for starters; only the order of ranks has a meaning. [0x110000] */
export const combiningClass = new Uint8Array(0x110000)
/** Full canonical decompositions, Hangul apart. */
export const decompositions = new Map<number, readonly number[]>()
/** `first * 2^21 + second` -> primary composite, Hangul apart. */
export const compositions = new Map<number, number>()
export const pairKey = (first: number, second: number) => first * 0x200000 + second

const HANGUL_V = 0x1161
const HANGUL_V_END = 0x1175
const HANGUL_T = 0x11a8
const HANGUL_T_END = 0x11c2

function forEachRange(packed: string, act: (start: number, end: number) => void): void {
  let at = 0
  const numbers = packed.split(' ')
  for (let i = 0; i < numbers.length; i += 2) {
    const start = at + Number.parseInt(numbers[i]!, 36)
    at = start + Number.parseInt(numbers[i + 1]!, 36)
    act(start, at)
  }
}

function mark(start: number, end: number, bits: number): void {
  for (let c = start; c < end; c++) classOf[c]! |= bits
}

let filled = false

/** Fills the tables. Not at import: programs that never tokenize need not pay for it. */
export function fillTables(): void {
  if (filled) return
  filled = true
  forEachRange(LETTERS, (a, b) => mark(a, b, LETTER))
  forEachRange(NUMBERS, (a, b) => mark(a, b, NUMBER))
  forEachRange(SPACES, (a, b) => mark(a, b, SPACE))
  mark(0x0a, 0x0b, NEWLINE)
  mark(0x0d, 0x0e, NEWLINE)
  mark(0xd800, 0xe000, SURROGATE)
  COMBINING_CLASSES.split(',').forEach((packed, index) => {
    forEachRange(packed, (a, b) => {
      combiningClass.fill(index + 1, a, b)
      mark(a, b, MARK)
    })
  })
  for (const row of COMPOSITIONS.split(',')) {
    const [first, second, composed] = row.split(' ').map((n) => Number.parseInt(n, 36)) as [number, number, number]
    compositions.set(pairKey(first, second), composed)
    mark(second, second + 1, NFC_MAYBE)
  }
  const composed = new Set(compositions.values())
  for (const row of DECOMPOSITIONS.split(',')) {
    const [from, ...to] = row.split(' ').map((n) => Number.parseInt(n, 36)) as [number, ...number[]]
    decompositions.set(from, to)
    // A primary composite is its own NFC; it stays clean unless something combines with it.
    if (!composed.has(from)) mark(from, from + 1, NFC_MAYBE)
  }
  mark(HANGUL_V, HANGUL_V_END + 1, NFC_MAYBE)
  mark(HANGUL_T, HANGUL_T_END + 1, NFC_MAYBE)
}

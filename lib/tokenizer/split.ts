/**
 * Qwen's split pattern as a hand-written matcher:
 *
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} | ?[^\s\p{L}\p{N}]+[\r\n]*
 *     | \s*[\r\n]+ | \s+(?!\S) | \s+
 *
 * Every code point starts one of these, so matches tile the text. Each match reads its own characters, at most
 * two beyond, and white space at most twice: linear in the length of the text.
 */
import * as unicode from './unicode'

// Bound once: compiled code reads an import through its module's object, which is slow in hot loops.
const { classOf, LETTER, NEWLINE, NUMBER, SPACE, SURROGATE } = unicode

/** The pattern as published `tokenizer.json` files carry it; any other is refused. */
export const QWEN_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const NOT_OTHER = LETTER | NUMBER | SPACE

/** Class bits of the code point that starts at `i`; `units` must be well-formed. */
export function classAt(units: Uint16Array, i: number): number {
  const unit = units[i]!
  const bits = classOf[unit]!
  return bits & SURROGATE ? classOf[((unit & 0x3ff) << 10) + (units[i + 1]! & 0x3ff) + 0x10000]! | SURROGATE : bits
}

/** End of the run of letters that starts at `i`. */
function lettersEnd(units: Uint16Array, i: number, end: number): number {
  while (i < end) {
    const bits = classOf[units[i]!]!
    if (bits & LETTER) i++
    else if (bits & SURROGATE && classAt(units, i) & LETTER) i += 2
    else break
  }
  return i
}

/** End of the run of code points that are neither letters, numbers nor white space. */
function othersEnd(units: Uint16Array, i: number, end: number): number {
  while (i < end) {
    const bits = classOf[units[i]!]!
    if (bits & SURROGATE) {
      if (classAt(units, i) & NOT_OTHER) break
      i += 2
    } else if (bits & NOT_OTHER) {
      break
    } else {
      i++
    }
  }
  return i
}

/** Length of the contraction that starts at the apostrophe at `i`, or 0. U+017F is a case variant of s. */
function contraction(units: Uint16Array, i: number, end: number): number {
  if (i + 1 >= end) return 0
  const a = units[i + 1]!
  const first = a | 0x20
  if (first === 0x73 || first === 0x74 || first === 0x6d || first === 0x64 || a === 0x17f) return 2
  if (i + 2 >= end) return 0
  const second = units[i + 2]! | 0x20
  if ((first === 0x72 || first === 0x76) && second === 0x65) return 3
  return first === 0x6c && second === 0x6c ? 3 : 0
}

/** A match that begins with white space at `i` and is not ` ` or such before a letter, nor ` ` before other characters. */
function spacesEnd(units: Uint16Array, i: number, end: number): number {
  let j = i
  let newline = -1
  while (j < end) {
    const bits = classOf[units[j]!]!
    if ((bits & SPACE) === 0) break
    if (bits & NEWLINE) newline = j
    j++
  }
  if (newline >= 0) return newline + 1
  // White space before a character leaves its last one for that character's own match.
  return j < end && j - i > 1 ? j - 1 : j
}

/** The end of the match that begins at `i < end`; the text ends at `end`. */
export function matchEnd(units: Uint16Array, i: number, end: number): number {
  const unit = units[i]!
  const bits = classAt(units, i)
  const next = bits & SURROGATE ? i + 2 : i + 1
  if (bits & LETTER) return lettersEnd(units, next, end)
  if (bits & NUMBER) return next
  if (unit === 0x27) {
    const length = contraction(units, i, end)
    if (length > 0) return i + length
  }
  if (bits & NEWLINE) return spacesEnd(units, i, end)
  const after = next < end ? classAt(units, next) : SPACE
  if (after & LETTER) return lettersEnd(units, next, end)
  if (bits & SPACE && (unit !== 0x20 || after & NOT_OTHER)) return spacesEnd(units, i, end)
  let j = othersEnd(units, next, end)
  while (j < end && classOf[units[j]!]! & NEWLINE) j++
  return j
}

/** Units that a step of {@link matchSteps} reads. */
const WINDOW = 1 << 15

/** {@link matchEnd} for words of any length, in steps well below a millisecond each. */
export function* matchSteps(units: Uint16Array, i: number, end: number): Generator<undefined, number> {
  let stop = i + WINDOW
  if (stop >= end) return matchEnd(units, i, end)
  let j = matchEnd(units, i, stop)
  if (classOf[units[i]!]! & SPACE && classOf[units[stop - 1]!]! & SPACE) {
    const run = yield* spaceRunSteps(units, i, end)
    if (run.end >= stop) return run.newline >= 0 ? run.newline + 1 : run.end < end ? run.end - 1 : run.end
  }
  if (j < stop) return j
  // The match reached the end of the window, and so is a run of the class of its last character.
  const low = (units[j - 1]! & 0xfc00) === 0xdc00
  const kind = classAt(units, low ? j - 2 : j - 1)
  while (j >= stop && j < end && (kind & NEWLINE) === 0) {
    yield
    stop = Math.min(end, j + WINDOW)
    j = kind & LETTER ? lettersEnd(units, j, stop) : othersEnd(units, j, stop)
  }
  if (kind & LETTER) return j
  for (let n = 1; j < end && classOf[units[j]!]! & NEWLINE; n++, j++) if (n % WINDOW === 0) yield
  return j
}

/** End of the run of white space from `i`, and its last newline or -1. */
function* spaceRunSteps(units: Uint16Array, i: number, end: number) {
  let newline = -1
  let j = i
  for (; j < end; j++) {
    const bits = classOf[units[j]!]!
    if ((bits & SPACE) === 0) break
    if (bits & NEWLINE) newline = j
    if ((j - i) % WINDOW === WINDOW - 1) yield
  }
  return { end: j, newline }
}

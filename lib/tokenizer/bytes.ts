/** The byte alphabet of vocabulary files, and the error of a damaged one. */
import { Qwen3Error } from '../errors'

/**
 * The printable character that stands for each byte in vocabulary files (GPT-2's byte alphabet): printable Latin-1
 * stands for itself, the other 68 bytes take the characters from U+0100 on, in order.
 */
const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae
export const BYTE_TO_CHAR: readonly string[] = (() => {
  let next = 0x100
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++))
})()

/** Byte by character code, or -1. [0x144] */
export const CHAR_TO_BYTE = new Int16Array(0x144).fill(-1)
BYTE_TO_CHAR.forEach((char, byte) => {
  CHAR_TO_BYTE[char.charCodeAt(0)] = byte
})

/** The text of bytes in the byte alphabet. */
export const toByteAlphabet = (bytes: Uint8Array) => Array.from(bytes, (b) => BYTE_TO_CHAR[b]).join('')

/** Text from a file in a message: bounded, control characters escaped. */
export const quote = (text: string) => JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)

/** The error of a damaged tokenizer file. */
export const bad = (file: string, problem: string) =>
  new Qwen3Error('BAD_MODEL_FILE', `${file}: ${problem}`, { subject: file })

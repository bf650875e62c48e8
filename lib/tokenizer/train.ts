/**
 * Byte-level BPE training: from texts to the vocabulary and merges of a Qwen3-style `tokenizer.json`.
 *
 * Deterministic: the result depends on the multiset of texts alone. The most frequent pair is merged first;
 * ties go to the pair with the lower left id, then the lower right id.
 */

import { Qwen3Error } from '../errors.js'

/** Qwen3's split regex. JavaScript has no `(?i:...)` group, so the contractions spell out both cases (and ſ, which folds to s). */
const SPLIT =
  /'(?:[sSſ]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL]{2}|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu

/** The same regex as `tokenizer.json` carries it. */
export const SPLIT_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Qwen3's added tokens in order of id; `special` ones are skipped by a plain decode. */
export const QWEN3_ADDED_TOKENS: ReadonlyArray<{ content: string; special: boolean }> = [
  ...[
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
    '<|object_ref_start|>',
    '<|object_ref_end|>',
    '<|box_start|>',
    '<|box_end|>',
    '<|quad_start|>',
    '<|quad_end|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|vision_pad|>',
    '<|image_pad|>',
    '<|video_pad|>',
  ].map((content) => ({ content, special: true })),
  ...[
    '<tool_call>',
    '</tool_call>',
    '<|fim_prefix|>',
    '<|fim_middle|>',
    '<|fim_suffix|>',
    '<|fim_pad|>',
    '<|repo_name|>',
    '<|file_sep|>',
    '<tool_response>',
    '</tool_response>',
    '<think>',
    '</think>',
  ].map((content) => ({ content, special: false })),
]

export interface AddedTokenJson {
  id: number
  content: string
  single_word: boolean
  lstrip: boolean
  rstrip: boolean
  normalized: boolean
  special: boolean
}

export interface TrainOptions {
  /** Vocabulary size without the added tokens; at least 256, one for every byte. */
  vocabSize: number
  /** Tokens appended after the vocabulary. Default: Qwen3's 26. */
  addedTokens?: ReadonlyArray<{ content: string; special: boolean }>
  /** Pairs seen less often than this are not merged. Default 2. */
  minFrequency?: number
}

export interface TrainedBpe {
  /** Token text in the byte alphabet, by id. */
  tokens: string[]
  /** Merges in order of rank. */
  merges: Array<[string, string]>
}

/**
 * The printable character that stands for each byte: printable Latin-1 stands for itself, the other 68 bytes
 * take the characters from U+0100 on, in order.
 */
export function byteAlphabet(): string[] {
  const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae
  let next = 0x100
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++))
}

/** One distinct word of the corpus: its current tokens and how often it occurs. */
interface Word {
  ids: number[]
  count: number
}

/** Learns `vocabSize - 256` merges (fewer when no pair is left) from the texts. */
export function trainBpe(texts: Iterable<string>, options: TrainOptions): TrainedBpe {
  const { vocabSize, minFrequency = 2 } = options
  if (!Number.isInteger(vocabSize) || vocabSize < 256) {
    throw new Qwen3Error(
      'INVALID_ARGUMENT',
      `vocabSize: expected an integer of at least 256, received ${String(vocabSize)}`,
      {
        subject: 'vocabSize',
      },
    )
  }
  const alphabet = byteAlphabet()
  const tokens = [...alphabet].sort((a, b) => (a < b ? -1 : 1)) // the order of ids in published vocabularies
  const byteToId = new Map(tokens.map((token, id) => [token, id]))
  const words = countWords(texts, (byte) => byteToId.get(alphabet[byte]!)!)
  const pairs = new PairCounts()
  for (const [index, word] of words.entries()) pairs.addWord(word, index)

  const merges: Array<[string, string]> = []
  while (tokens.length < vocabSize) {
    const best = pairs.best(minFrequency)
    if (best === undefined) break
    const [left, right] = best
    const merged = tokens.length
    tokens.push(tokens[left]! + tokens[right]!)
    merges.push([tokens[left]!, tokens[right]!])
    for (const index of pairs.wordsWith(left, right)) {
      const word = words[index]!
      pairs.removeWord(word, index)
      word.ids = mergePair(word.ids, left, right, merged)
      pairs.addWord(word, index)
    }
  }
  return { tokens, merges }
}

/** Trains and wraps the result as the JSON object of a Qwen3 `tokenizer.json`. */
export function trainTokenizerJson(texts: Iterable<string>, options: TrainOptions) {
  const { tokens, merges } = trainBpe(texts, options)
  const added = options.addedTokens ?? QWEN3_ADDED_TOKENS
  const added_tokens: AddedTokenJson[] = added.map(({ content, special }, i) => ({
    id: tokens.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special,
  }))
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens,
    normalizer: { type: 'NFC' },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: SPLIT_PATTERN }, behavior: 'Isolated', invert: false },
        byteLevel,
      ],
    },
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  }
}

function countWords(texts: Iterable<string>, idOfByte: (byte: number) => number): Word[] {
  const counts = new Map<string, number>()
  for (const text of texts) {
    for (const [piece] of text.normalize('NFC').matchAll(SPLIT)) counts.set(piece, (counts.get(piece) ?? 0) + 1)
  }
  const encoder = new TextEncoder()
  return [...counts].map(([piece, count]) => ({ ids: Array.from(encoder.encode(piece), idOfByte), count }))
}

function mergePair(ids: number[], left: number, right: number, merged: number): number[] {
  const out: number[] = []
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out.push(merged)
      i++
    } else {
      out.push(ids[i]!)
    }
  }
  return out
}

/** How often each adjacent pair occurs, and in which words. */
class PairCounts {
  private readonly pairs = new Map<number, { count: number; words: Set<number> }>()

  // Ids stay below 2^26, so that a pair is one exact integer and pairs compare as (left, right) do.
  private static readonly SHIFT = 2 ** 26

  addWord(word: Word, index: number): void {
    this.visit(word, (key) => {
      let entry = this.pairs.get(key)
      if (!entry) {
        entry = { count: 0, words: new Set() }
        this.pairs.set(key, entry)
      }
      entry.count += word.count
      entry.words.add(index)
    })
  }

  removeWord(word: Word, index: number): void {
    this.visit(word, (key) => {
      const entry = this.pairs.get(key)
      if (!entry) return
      entry.count -= word.count
      entry.words.delete(index)
      if (entry.count === 0) this.pairs.delete(key)
    })
  }

  /** The most frequent pair; among equals the one with the lowest ids. */
  best(minFrequency: number): [number, number] | undefined {
    let bestKey = -1
    let bestCount = minFrequency - 1
    for (const [key, { count }] of this.pairs) {
      if (count > bestCount || (count === bestCount && bestKey >= 0 && key < bestKey)) {
        bestKey = key
        bestCount = count
      }
    }
    return bestKey < 0 ? undefined : [Math.floor(bestKey / PairCounts.SHIFT), bestKey % PairCounts.SHIFT]
  }

  wordsWith(left: number, right: number): number[] {
    return [...(this.pairs.get(left * PairCounts.SHIFT + right)?.words ?? [])]
  }

  private visit(word: Word, act: (key: number) => void): void {
    for (let i = 0; i + 1 < word.ids.length; i++) act(word.ids[i]! * PairCounts.SHIFT + word.ids[i + 1]!)
  }
}

/** The trainer: deterministic, and its files mean the same to this tokenizer and to the oracle. */
import { Tokenizer as Rust } from 'tokenizers'
import { describe, expect, test } from 'vitest'
import { Tokenizer } from '../../lib/tokenizer'
import { QWEN3_ADDED_TOKENS, SPLIT_PATTERN, trainBpe, trainTokenizerJson } from '../../lib/tokenizer/train'
import { hostileStrings, mixedPieces, naturalStrings, Random } from './corpus'
import { NANO, readJson, rustIds, spell } from './models'
import { SENTENCES } from './sentences'

const corpus = [...Object.values(SENTENCES).flat(), ...mixedPieces(100_000, 2048, 51)]

describe('a trained vocabulary', () => {
  const json = trainTokenizerJson(corpus, { vocabSize: 1500 })

  test('has the wanted size, all bytes, and Qwen3’s control tokens after it', () => {
    const ours = Tokenizer.fromJson(json)
    expect(Object.keys(json.model.vocab).length).toBe(1500)
    expect(ours.vocabSize).toBe(1500 + QWEN3_ADDED_TOKENS.length)
    expect(ours.addedTokens().map(({ content, special }) => ({ content, special }))).toEqual(QWEN3_ADDED_TOKENS)
    const bytes = new Set(Array.from({ length: 256 }, (_, id) => ours.idToBytes(id)[0]))
    expect(bytes.size).toBe(256)
  })

  test('gives equal ids in this tokenizer and in the oracle', async () => {
    const ours = Tokenizer.fromJson(json)
    const rust = Rust.fromString(JSON.stringify(json))
    const texts = [...naturalStrings(52, 2), ...hostileStrings(53, 800), ...mixedPieces(50_000, 2048, 54)]
    const expected = await rustIds(rust, texts)
    texts.forEach((text, i) => {
      expect([...ours.encode(text, { parseSpecial: true })], spell(text)).toEqual(expected[i])
    })
  })

  test('shortens its corpus: merges are used', () => {
    const ours = Tokenizer.fromJson(json)
    const bytes = corpus.reduce((n, text) => n + Buffer.byteLength(text), 0)
    const ids = corpus.reduce((n, text) => n + ours.countTokens(text), 0)
    expect(ids).toBeLessThan(bytes / 2)
    // Training merges the most frequent pair: every merge occurs in the corpus.
    const used = new Set(corpus.flatMap((text) => [...ours.encode(text)]))
    expect(used.size).toBeGreaterThan(900)
  })

  test('depends on the set of texts alone, not on their order', () => {
    const random = new Random(55)
    const shuffled = corpus
      .map((text) => ({ text, key: random.next() }))
      .sort((a, b) => a.key - b.key)
      .map(({ text }) => text)
    expect(trainTokenizerJson(shuffled, { vocabSize: 1500 })).toEqual(json)
  })
})

test('training merges the most frequent pair first, and ties by the lower ids', () => {
  const { tokens, merges } = trainBpe(['abab', 'abc', 'cd', 'cd'], { vocabSize: 259 })
  expect(merges).toEqual([
    ['a', 'b'],
    ['c', 'd'],
  ])
  expect(tokens.length).toBe(258) // no further pair occurs twice
  const byCount = trainBpe(['xy', 'xy', 'ab', 'ab', 'ab'], { vocabSize: 258 })
  expect(byCount.merges).toEqual([
    ['a', 'b'],
    ['x', 'y'],
  ])
})

test('the split pattern of the trainer is that of the tokenizer, and nano’s', () => {
  const nano = readJson(NANO) as { pre_tokenizer: { pretokenizers: { pattern: { Regex: string } }[] } }
  expect(SPLIT_PATTERN).toBe(nano.pre_tokenizer.pretokenizers[0]!.pattern.Regex)
  expect(() => Tokenizer.fromJson(trainTokenizerJson(['a'], { vocabSize: 256 }))).not.toThrow()
})

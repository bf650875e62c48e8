/** Ids to text: whole, streamed in random pieces, and the tables that the engine reads. */
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { Tokenizer } from '../../lib/tokenizer'
import { normalizeText } from '../../lib/tokenizer/encoder'
import { hostileStrings, naturalStrings, Random, wellFormed } from './corpus'
import { loadBoth, NANO, QWEN3, smallJson, spell } from './models'

const TEXTS = [...naturalStrings(11, 2), ...hostileStrings(12, 600)]

describe.each([
  ['Qwen3', QWEN3],
  ['nano', NANO],
])('%s vocabulary', (_name, directory) => {
  let both: Awaited<ReturnType<typeof loadBoth>>
  beforeAll(async () => {
    both = await loadBoth(directory)
  })

  test('decoding returns the NFC of the text', () => {
    const { ours } = both
    for (const text of TEXTS) {
      expect(ours.decode(ours.encode(text)), spell(text)).toBe(normalizeText(text))
    }
  })

  test('any ids decode as by the oracle, broken UTF-8 and half characters included', async () => {
    const { ours, rust } = both
    const random = new Random(13)
    for (let i = 0; i < 400; i++) {
      // Low ids are single bytes: most of their sequences are not UTF-8.
      const ids = Array.from({ length: 1 + random.below(30) }, () => random.below(i % 2 ? 256 : ours.vocabSize))
      expect(ours.decode(ids)).toBe(await rust.decode(ids, false))
      expect(ours.decode(ids, { skipSpecial: true })).toBe(await rust.decode(ids, true))
    }
  })

  test('a stream cut anywhere gives the same text, and never half a character', () => {
    const { ours } = both
    const random = new Random(14)
    for (const text of TEXTS) {
      const ids = ours.encode(text)
      const decoder = ours.decoder()
      let streamed = ''
      for (let at = 0; at < ids.length; ) {
        const next = at + random.below(4)
        const piece = decoder.push(ids.subarray(at, next))
        expect(wellFormed(piece)).toBe(piece)
        // A U+FFFD in a piece would be a broken character unless the text holds one.
        if (!normalizeText(text).includes('\ufffd')) expect(piece).not.toContain('\ufffd')
        streamed += piece
        at = next
      }
      expect(streamed + decoder.flush(), spell(text)).toBe(ours.decode(ids))
    }
  })

  test('a stream of random bytes equals the whole (property)', () => {
    const { ours } = both
    const byte = fc.oneof(
      fc.integer({ min: 0, max: 255 }),
      fc.constantFrom(...Array.from({ length: 64 }, (_, i) => i + 188)),
    )
    const pieces = fc.array(fc.array(byte, { maxLength: 4 }), { maxLength: 12 })
    const property = fc.property(pieces, (list) => {
      const decoder = ours.decoder()
      const streamed = list.map((ids) => decoder.push(ids)).join('') + decoder.flush()
      return streamed === ours.decode(list.flat())
    })
    expect(() => fc.assert(property, { numRuns: 500 })).not.toThrow()
  })

  test('tokens, ids and bytes go with one another and with the oracle', () => {
    const { ours, rust } = both
    const { bytes, offsets } = ours.byteTable()
    expect(ours.vocabSize).toBe(rust.getVocabSize(true))
    expect(offsets.length).toBe(ours.vocabSize + 1)
    expect(offsets[ours.vocabSize]).toBe(bytes.length)
    const random = new Random(15)
    for (let i = 0; i < 2000; i++) {
      const id = i < 300 ? ours.vocabSize - 1 - i : random.below(ours.vocabSize)
      const token = ours.idToToken(id)!
      expect(token).toBe(rust.idToToken(id))
      expect(ours.tokenToId(token)).toBe(id)
      expect(ours.idToBytes(id)).toEqual(bytes.slice(offsets[id], offsets[id + 1]))
    }
    expect(ours.tokenToId('no such token')).toBeUndefined()
  })
})

test('a flushed decoder starts anew', async () => {
  const ours = await Tokenizer.load(NANO)
  const decoder = ours.decoder()
  const euro = ours.encode('€')
  expect(euro.length).toBeGreaterThan(1)
  expect(decoder.push(euro[0]!)).toBe('')
  expect(decoder.flush()).toBe('\ufffd')
  expect(decoder.push(euro)).toBe('€')
  expect(decoder.flush()).toBe('')
})

test('U+FEFF survives at the start of a text and of a stream', async () => {
  const ours = await Tokenizer.load(QWEN3)
  for (const text of ['\ufeff', '\ufeffa', '\ufeff\ufeff']) {
    expect(ours.decode(ours.encode(text))).toBe(text)
    expect(ours.decoder().push(ours.encode(text))).toBe(text)
  }
})

test('ids beyond the vocabulary are refused, rows of the model without a token are empty', () => {
  const json = smallJson()
  const small = Tokenizer.fromJson(json)
  expect(small.vocabLimit).toBe(small.vocabSize)
  const padded = Tokenizer.fromJson(json, { vocabLimit: 1024 })
  expect(padded.decode([72, small.vocabSize, 1023, 73])).toBe(padded.decode([72, 73]))
  expect(padded.idToBytes(1023)).toEqual(new Uint8Array(0))
  expect(padded.idToToken(1023)).toBeUndefined()
  for (const id of [small.vocabSize, -1, 0.5, Number.NaN, 2 ** 32, '1' as unknown as number]) {
    const refusal = expect.objectContaining({ code: 'INVALID_ARGUMENT' })
    expect(() => small.decode([1, id])).toThrow(refusal)
    expect(() => small.decoder().push(id)).toThrow(refusal)
    expect(() => small.idToBytes(id)).toThrow(refusal)
  }
  const decoder = small.decoder()
  decoder.push(0xe2)
  expect(() => decoder.push([0x82, 9999])).toThrow(/ids\[1\]/)
  expect(decoder.push([0x82, 0xac])).toBe('€') // the refused call consumed nothing
})

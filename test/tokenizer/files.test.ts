/** Tokenizer files: the two layouts that work, and broken or foreign ones, each refused with its file and field. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { Tokenizer as Rust } from 'tokenizers'
import { afterAll, describe, expect, test } from 'vitest'
import { Tokenizer } from '../../lib/tokenizer'
import { hostileStrings, naturalStrings } from './corpus'
import { NANO, QWEN3, readJson, rustIds, smallJson, spell } from './models'

const root = mkdtempSync(path.join(tmpdir(), 'qwen3-tokenizer-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let folders = 0
function directory(files: Record<string, unknown>): string {
  const folder = path.join(root, String(folders++))
  mkdirSync(folder)
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(path.join(folder, name), typeof content === 'string' ? content : JSON.stringify(content))
  }
  return folder
}

/** The error of loading such files, which must carry the code and name the file and field. */
async function refusal(files: Record<string, unknown>): Promise<{ code: string; message: string; subject: string }> {
  return Tokenizer.load(directory(files)).then(
    () => ({ code: 'none', message: '', subject: '' }),
    (error) => error,
  )
}

type Json = Record<string, unknown>
const nano = readJson(NANO) as Json & {
  model: { vocab: Record<string, number>; merges: string[][] }
  added_tokens: Json[]
}
const texts = [...naturalStrings(31, 2), ...hostileStrings(32, 300)]

function expectSame(a: Tokenizer, b: Tokenizer): void {
  expect(a.vocabSize).toBe(b.vocabSize)
  expect(a.addedTokens()).toEqual(b.addedTokens())
  for (const text of texts) {
    expect(a.encode(text, { parseSpecial: true }), spell(text)).toEqual(b.encode(text, { parseSpecial: true }))
  }
}

describe('layouts', () => {
  const config = {
    tokenizer_class: 'Qwen2Tokenizer',
    added_tokens_decoder: Object.fromEntries(nano.added_tokens.map(({ id, ...rest }) => [String(id), rest])),
  }
  const merges = nano.model.merges.map((pair) => pair.join(' ')).join('\n')

  test('vocab.json, merges.txt and tokenizer_config.json give the ids of tokenizer.json', async () => {
    const whole = await Tokenizer.load(NANO)
    for (const text of [`#version: 0.2\n${merges}\n`, merges, `${merges.replaceAll('\n', '\r\n')}\r\n`]) {
      const folder = directory({ 'vocab.json': nano.model.vocab, 'merges.txt': text, 'tokenizer_config.json': config })
      expectSame(await Tokenizer.load(folder), whole)
    }
  })

  test('without tokenizer_config.json there are no added tokens', async () => {
    const folder = directory({ 'vocab.json': nano.model.vocab, 'merges.txt': merges })
    const plain = await Tokenizer.load(folder)
    expect(plain.addedTokens()).toEqual([])
    expect(plain.decode(plain.encode('<think>', { parseSpecial: true }))).toBe('<think>')
  })

  test('merges as strings, a parsed object, and a file URL', async () => {
    const whole = await Tokenizer.load(NANO)
    expectSame(Tokenizer.fromJson({ ...nano, model: { ...nano.model, merges: merges.split('\n') } }), whole)
    expectSame(Tokenizer.fromJson(nano), whole)
    expectSame(await Tokenizer.load(pathToFileURL(NANO)), whole)
    expectSame(await Tokenizer.load(pathToFileURL(NANO).href), whole)
  })

  test('a pair that is listed twice has its last rank, as in the oracle', async () => {
    const json = smallJson([
      ['a', 'b'],
      ['b', 'c'],
      ['a', 'b'],
    ])
    const rust = Rust.fromString(JSON.stringify(json))
    const [expected] = await rustIds(rust, ['abcab'])
    expect([...Tokenizer.fromJson(json).encode('abcab')]).toEqual(expected)
  })

  test('config.json bounds the ids and admits rows without a token', async () => {
    const padded = await Tokenizer.load(
      directory({ 'tokenizer.json': smallJson(), 'config.json': { vocab_size: 300 } }),
    )
    expect(padded.vocabLimit).toBe(300)
    const error = await refusal({ 'tokenizer.json': smallJson(), 'config.json': { vocab_size: 256 } })
    expect(error).toMatchObject({ code: 'BAD_MODEL_FILE' })
    expect(error.message).toMatch(/id 256 .*vocab_size of 256/)
    for (const vocab_size of [-1, 'many', 1.5, 2 ** 40]) {
      expect(await refusal({ 'tokenizer.json': smallJson(), 'config.json': { vocab_size } })).toMatchObject({
        code: 'BAD_MODEL_FILE',
        message: expect.stringContaining('vocab_size'),
      })
    }
  })

  test('loading the large vocabulary does not block the event loop', async () => {
    let longest = 0
    let last = performance.now()
    let ticks = 0
    const timer = setInterval(() => {
      const now = performance.now()
      longest = Math.max(longest, now - last)
      last = now
      ticks++
    }, 1)
    const started = performance.now()
    await Tokenizer.load(QWEN3)
    clearInterval(timer)
    // In slices: no gap is a large part of the whole, however slow the machine.
    expect(ticks).toBeGreaterThan(20)
    expect(longest).toBeLessThan((performance.now() - started) / 4)
  })
})

describe('damage', () => {
  const { model } = smallJson() as { model: { vocab: Record<string, number> } }
  const { '!': _removed, ...noBang } = model.vocab
  const vocab = (changes: Json) => smallJson([['l', 'l']], [], { model: { vocab: { ...model.vocab, ...changes } } })
  const token = (changes: Json) => smallJson([['l', 'l']], [{ content: '<x>', ...changes }])

  test.each<[string, unknown, RegExp]>([
    ['not JSON', '{"model": ', /JSON/],
    ['empty', '', /JSON/],
    ['no object', '[]', /object/],
    ['no model', { ...smallJson(), model: undefined }, /model: expected an object/],
    [
      'a merge of unknown tokens',
      smallJson([], [], { model: { merges: [['zz', 'l']] } }),
      /merges\[0\].*"zz".*not in the vocabulary/,
    ],
    ['a merge into an unknown token', smallJson([], [], { model: { merges: [['h', 'i']] } }), /merges\[0\].*"hi"/],
    ['a merge of three', smallJson([], [], { model: { merges: [['a', 'b', 'c']] } }), /merges\[0\]/],
    ['a merge string without a space', smallJson([], [], { model: { merges: ['ab'] } }), /merges\[0\]/],
    ['a merge of numbers', smallJson([], [], { model: { merges: [[1, 2]] } }), /merges\[0\]/],
    ['merges that are no array', smallJson([], [], { model: { merges: 'a b' } }), /merges: expected an array/],
    ['two tokens with one id', vocab({ zz: 5 }), /id 5 belongs to both/],
    ['an id that is text', vocab({ zz: '300' }), /"zz"/],
    ['a negative id', vocab({ zz: -1 }), /"zz"/],
    ['a fractional id', vocab({ zz: 300.5 }), /"zz"/],
    ['an id far beyond the tokens', vocab({ zz: 4_000_000_000 }), /4000000000/],
    ['a token outside the byte alphabet', vocab({ 日: 300 }), /U\+65E5/],
    ['an empty token', vocab({ '': 300 }), /empty/],
    ['no token for a byte', smallJson([], [], { model: { vocab: noBang, merges: [] } }), /no token for byte 0x21/],
    ['a vocabulary that is an array', smallJson([], [], { model: { vocab: ['a'] } }), /vocab: expected an object/],
    ['an added token with an id in use', token({ id: 5 }), /id 5/],
    ['an added token with another id in the vocabulary', token({ content: 'll' }), /"ll"/],
    ['an added token without text', token({ content: '' }), /added_tokens\[0\]\.content/],
    ['an added token that is a number', token({ content: 5 }), /added_tokens\[0\]\.content/],
    ['an added token of half a pair', token({ content: '\ud800' }), /half a surrogate pair/],
    ['a huge added token', token({ content: 'x'.repeat(5000) }), /added_tokens\[0\]\.content/],
    ['a flag that is text', token({ lstrip: 'yes' }), /added_tokens\[0\]\.lstrip/],
    ['an added token without id', token({ id: null }), /added_tokens\[0\]\.id/],
    ['added tokens with one text', smallJson([], [{ content: '<x>' }, { content: '<x>' }]), /listed twice/],
    [
      'added tokens with one id',
      smallJson(
        [],
        [
          { content: '<x>', id: 400 },
          { content: '<y>', id: 400 },
        ],
      ),
      /id 400 belongs to both/,
    ],
    ['added tokens that are no array', { ...smallJson(), added_tokens: {} }, /added_tokens: expected an array/],
    ['a component without type', { ...smallJson(), normalizer: {} }, /normalizer\.type/],
    ['nesting of 100,000 levels', `${'['.repeat(100_000)}${']'.repeat(100_000)}`, /deep/],
    [
      'nesting inside a field',
      JSON.stringify(smallJson()).replace('"1.0"', `${'{"a":'.repeat(99)}1${'}'.repeat(99)}`),
      /deep/,
    ],
    ['a key that stands twice', JSON.stringify(smallJson()).replace('"l":', '"k":'), /"k"/],
  ])('%s', async (_what, content, message) => {
    const error = await refusal({ 'tokenizer.json': content })
    expect(error.code, error.message).toBe('BAD_MODEL_FILE')
    expect(error.message).toMatch(message)
    expect(error.message).toContain('tokenizer.json')
    expect(error.subject).toContain('tokenizer.json')
    expect(error.message.length).toBeLessThan(1000)
  })

  test.each<[string, Json, RegExp]>([
    ['Unigram', { model: { type: 'Unigram' } }, /model\.type.*"Unigram"/],
    ['WordPiece', { model: { type: 'WordPiece' } }, /model\.type.*"WordPiece"/],
    ['dropout', { model: { dropout: 0.1 } }, /model\.dropout.*0\.1/],
    ['a subword prefix', { model: { continuing_subword_prefix: '##' } }, /continuing_subword_prefix/],
    ['a word suffix', { model: { end_of_word_suffix: '</w>' } }, /end_of_word_suffix/],
    ['byte fallback', { model: { byte_fallback: true } }, /byte_fallback/],
    ['ignore_merges', { model: { ignore_merges: true } }, /ignore_merges/],
    ['another normalizer', { normalizer: { type: 'NFKC' } }, /normalizer.*"NFKC"/],
    [
      'two normalizers',
      { normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, { type: 'Lowercase' }] } },
      /Lowercase/,
    ],
    ['no normalizer', { normalizer: null }, /normalizer/],
    ['another pre-tokenizer', { pre_tokenizer: { type: 'Metaspace' } }, /pre_tokenizer.*Metaspace/],
    ['no pre-tokenizer', { pre_tokenizer: null }, /pre_tokenizer/],
    ['another decoder', { decoder: { type: 'WordPiece' } }, /decoder.*WordPiece/],
  ])('%s is unsupported, by name', async (_what, changes, message) => {
    const error = await refusal({ 'tokenizer.json': smallJson([['l', 'l']], [], changes) })
    expect(error.code, error.message).toBe('UNSUPPORTED')
    expect(error.message).toMatch(message)
    expect(error.subject).toContain('tokenizer.json')
  })

  test('another split pattern, prefix space or ByteLevel regex are unsupported, by name', async () => {
    const change = (at: number, fields: Json) => {
      const pre = structuredClone(nano.pre_tokenizer) as { pretokenizers: Json[] }
      Object.assign(pre.pretokenizers[at]!, fields)
      return refusal({ 'tokenizer.json': smallJson([['l', 'l']], [], { pre_tokenizer: pre }) })
    }
    expect((await change(0, { pattern: { Regex: '\\s+' } })).message).toMatch(/pattern.*\\\\s\+/)
    expect((await change(0, { behavior: 'Removed' })).message).toMatch(/behavior.*Removed/)
    expect((await change(0, { invert: true })).message).toMatch(/invert/)
    expect((await change(1, { add_prefix_space: true })).message).toMatch(/add_prefix_space/)
    expect((await change(1, { use_regex: true })).message).toMatch(/use_regex/)
    expect((await change(1, { use_regex: true })).code).toBe('UNSUPPORTED')
  })
})

describe('directories', () => {
  const bytes = (smallJson() as { model: { vocab: unknown } }).model.vocab

  test('that are not there, are files, or hold no tokenizer', async () => {
    await expect(Tokenizer.load(path.join(root, 'nowhere'))).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' })
    await expect(Tokenizer.load(path.join(QWEN3, 'tokenizer.json'))).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' })
    expect(await refusal({ 'config.json': { vocab_size: 10 } })).toMatchObject({ code: 'BAD_MODEL_FILE' })
    expect((await refusal({ 'vocab.json': bytes })).message).toMatch(/merges\.txt.*missing/)
    expect((await refusal({ 'merges.txt': 'a b' })).message).toMatch(/vocab\.json.*missing/)
    for (const wrong of ['', undefined, 5, new URL('https://example.org/x')]) {
      await expect(Tokenizer.load(wrong as string)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
  })

  test('with a folder in the place of a file', async () => {
    const folder = directory({})
    mkdirSync(path.join(folder, 'tokenizer.json'))
    await expect(Tokenizer.load(folder)).rejects.toMatchObject({ code: 'BAD_MODEL_FILE' })
  })

  test('whose vocab.json, merges.txt or tokenizer_config.json are broken', async () => {
    const parts = { 'vocab.json': { ...(bytes as Json), ll: 256 }, 'merges.txt': 'l l' }
    expect((await refusal({ ...parts, 'merges.txt': 'l l\nl q\n' })).message).toMatch(
      /merges\.txt.*line 2|merges\[1\].*"lq"/,
    )
    expect((await refusal({ ...parts, 'merges.txt': 'l l l\n' })).message).toMatch(/merges\.txt: line 1/)
    expect((await refusal({ ...parts, 'vocab.json': '[1]' })).message).toMatch(/vocab\.json/)
    const config = async (fields: Json) => refusal({ ...parts, 'tokenizer_config.json': fields })
    expect(await config({ tokenizer_class: 'LlamaTokenizer' })).toMatchObject({ code: 'UNSUPPORTED' })
    expect(await config({ add_prefix_space: true })).toMatchObject({ code: 'UNSUPPORTED' })
    expect((await config({ added_tokens_decoder: { x: { content: '<x>' } } })).message).toMatch(/added_tokens_decoder/)
    expect((await config({ added_tokens_decoder: { 300: { content: 3 } } })).message).toMatch(/content/)
  })
})

import { inspect } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ChatMessage, type ChatOptions, type GenerateOptions, type LoadOptions, Qwen3, Qwen3Error } from '../lib'

let model: Qwen3

beforeAll(async () => {
  model = await Qwen3.load('nano')
})
afterAll(() => model.close())

const wrong = (code: string, subject?: string) =>
  expect.objectContaining({ name: 'Qwen3Error', code, ...(subject !== undefined && { subject }) })

const numbers = {
  NaN: Number.NaN,
  Infinity: Number.POSITIVE_INFINITY,
  'a string': '1',
  null: null,
  'an object': {},
  '1n': 1n,
}

/** Option -> values that are refused, beside those of `numbers`. */
const badNumbers: Record<string, unknown[]> = {
  maxTokens: [0, -1, 1.5, 2 ** 31],
  temperature: [-0.1, 101],
  topP: [0, -1, 1.01],
  topK: [-1, 0.5],
  minP: [-0.1, 1.1],
  presencePenalty: [-2.1, 2.1],
  frequencyPenalty: [-2.1, 2.1],
  repetitionPenalty: [0, -1, 10.5],
  seed: [-1, 0.5, 2 ** 53],
}

const badGenerate: [string, unknown][] = [
  ...Object.entries(badNumbers).flatMap(([name, values]) =>
    [...values, ...Object.values(numbers)].map((value): [string, unknown] => [name, value]),
  ),
  ...['', [''], ['a', ''], [1], 1, null, Array(65).fill('x'), 'x'.repeat(1025)].map((value): [string, unknown] => [
    'stop',
    value,
  ]),
  ...[-1, 21, 1.5, 'yes', null, Number.NaN].map((value): [string, unknown] => ['logprobs', value]),
  ...[0, 'true', null].map((value): [string, unknown] => ['ignoreEos', value]),
  ...[{}, null, 'signal', new AbortController()].map((value): [string, unknown] => ['signal', value]),
  ...[
    [],
    null,
    5,
    { x: 1 },
    { '-1': 1 },
    { '01': 1 },
    { 896: 1 },
    { 1e9: 1 },
    { 5: Number.NaN },
    { 5: 101 },
    { 5: '1' },
    { 5: Number.POSITIVE_INFINITY },
  ].map((value): [string, unknown] => ['logitBias', value]),
]

const badChat: [string, unknown][] = [
  ...['yes', 1, null].map((value): [string, unknown] => ['thinking', value]),
  ...[-1, 1.5, 2 ** 31, ...Object.values(numbers)].map((value): [string, unknown] => ['thinkingBudget', value]),
  ...[-1, ...Object.values(numbers)].map((value): [string, unknown] => ['thinkingDeadlineMs', value]),
  ...[-1, 1.5, ...Object.values(numbers)].map((value): [string, unknown] => ['answerReserve', value]),
  ...['yes', 1, null].flatMap((value): [string, unknown][] => [
    ['loopBreaker', value],
    ['softLanding', value],
  ]),
  ...[{}, 'tool', 1, null].map((value): [string, unknown] => ['tools', value]),
]

const badLoad: [string, unknown][] = [
  ...[1, '', null].flatMap((value): [string, unknown][] => [
    ['device', value],
    ['isa', value],
  ]),
  ...[1, '', null, '/a\0b', {}].map((value): [string, unknown] => ['weightCache', value]),
  ...['int3', 1, null].flatMap((value): [string, unknown][] => [
    ['weights', value],
    ['embeddingWeights', value],
    ['headWeights', value],
    ['kvCache', value],
    ['rope', value],
  ]),
  ...[0, -1, 1.5, 2 ** 31, ...Object.values(numbers)].map((value): [string, unknown] => ['contextLength', value]),
  ...[0, -1, 1.5, 5000, ...Object.values(numbers)].map((value): [string, unknown] => ['threads', value]),
  ...[0, -1, 1.5, ...Object.values(numbers)].map((value): [string, unknown] => ['kvCacheBytes', value]),
  ...[0, -1, 1.5, 5000, ...Object.values(numbers)].map((value): [string, unknown] => ['maxSequences', value]),
  ...[-1, 1.5, ...Object.values(numbers)].map((value): [string, unknown] => ['maxWaiting', value]),
  ...[0, 0.5, -1, ...Object.values(numbers)].map((value): [string, unknown] => ['yarnFactor', value]),
  ...[-1, 0.5, ...Object.values(numbers)].map((value): [string, unknown] => ['randomSeed', value]),
  ...[{}, null, 'f'].map((value): [string, unknown] => ['onProgress', value]),
  ...[{}, null].map((value): [string, unknown] => ['signal', value]),
]

const name = (value: unknown) => inspect(value, { breakLength: Number.POSITIVE_INFINITY }).slice(0, 40)
const titled = (list: [string, unknown][]) => list.map(([option, value]) => ({ option, value, shown: name(value) }))

describe('generate() refuses', () => {
  test.each(titled(badGenerate))('$option: $shown', ({ option, value }) => {
    const options = { [option]: value } as GenerateOptions
    expect(() => model.generate('1+1', options)).toThrow(wrong('INVALID_ARGUMENT', option))
    expect(() => model.chat('1+1', options)).toThrow(wrong('INVALID_ARGUMENT', option))
  })
})

describe('chat() refuses', () => {
  test.each(titled(badChat))('$option: $shown', ({ option, value }) => {
    expect(() => model.chat('1+1', { [option]: value } as ChatOptions)).toThrow(wrong('INVALID_ARGUMENT', option))
  })

  const badMessages: [string, unknown][] = [
    ['an empty list', []],
    ['null', null],
    ['a number', 5],
    ['a message that is null', [null]],
    ['a message without role', [{ content: 'x' }]],
    ['an unknown role', [{ role: 'robot', content: 'x' }]],
    ['a content that is a number', [{ role: 'user', content: 5 }]],
    ['a text part without text', [{ role: 'user', content: [{ type: 'text' }] }]],
    ['tool calls that are no list', [{ role: 'assistant', content: '', tool_calls: {} }]],
  ]
  test.each(badMessages)('messages: %s', (_, messages) => {
    expect(() => model.chat(messages as ChatMessage[])).toThrow(wrong('INVALID_ARGUMENT'))
    expect(() => model.renderChat(messages as ChatMessage[])).toThrow(wrong('INVALID_ARGUMENT'))
  })

  test.each([
    ['no function', [{ type: 'function' }]],
    ['another type', [{ type: 'browser', function: { name: 'x' } }]],
    ['no name', [{ type: 'function', function: {} }]],
    ['null', [null]],
  ])('a tool with %s', (_, tools) => {
    expect(() => model.chat('1+1', { tools: tools as ChatOptions['tools'] })).toThrow(wrong('INVALID_ARGUMENT'))
  })

  test('lone surrogates are text like any other: U+FFFD', async () => {
    const { text } = await model.chat('What is 1 + 2? \ud800', { seed: 1, maxTokens: 200, thinkingBudget: 50 }).result()
    expect(text.isWellFormed()).toBe(true)
    const { ids } = await model.generate('\udc00 1', { maxTokens: 2, ignoreEos: true }).result()
    expect(ids).toHaveLength(2)
  })
})

describe('load() refuses', () => {
  test.each(titled(badLoad))('$option: $shown', async ({ option, value }) => {
    await expect(Qwen3.load('nano', { [option]: value } as LoadOptions)).rejects.toThrow(
      wrong('INVALID_ARGUMENT', option),
    )
  })

  test.each(['cuda', 'cuda:0', 'tpu', 'CPU '])('device %s: UNSUPPORTED, and no silent fallback', async (device) => {
    await expect(Qwen3.load('nano', { device })).rejects.toThrow(wrong('UNSUPPORTED', 'device'))
  })

  test('a context beyond the window without a way to reach it', async () => {
    await expect(Qwen3.load('nano', { contextLength: 4096, rope: 'none' })).rejects.toThrow(
      wrong('INVALID_ARGUMENT', 'contextLength'),
    )
    await expect(Qwen3.load('nano', { contextLength: 8192, yarnFactor: 2 })).rejects.toThrow(
      wrong('INVALID_ARGUMENT', 'contextLength'),
    )
  })

  test('a KV cache that holds less than one context, naming both numbers', async () => {
    const loading = Qwen3.load('nano', { contextLength: 2048, kvCacheBytes: 100_000 })
    await expect(loading).rejects.toThrow(wrong('INVALID_ARGUMENT', 'kvCacheBytes'))
    await expect(loading).rejects.toThrow(/2048.*100000/)
  })

  test.each([[''], [5], [null], [undefined]])('the name %s', async (bad) => {
    await expect(Qwen3.load(bad as string)).rejects.toThrow(wrong('INVALID_ARGUMENT'))
  })
})

describe('all calls', () => {
  test('an unknown option is refused, with the nearest one', async () => {
    expect(() => model.chat('x', { thinkingBudgets: 5 } as ChatOptions)).toThrow(
      /thinkingBudgets.*Did you mean thinkingBudget\?/,
    )
    expect(() => model.generate('x', { max_tokens: 5 } as GenerateOptions)).toThrow(
      /max_tokens.*Did you mean maxTokens\?/,
    )
    expect(() => model.generate('x', { thinking: true } as GenerateOptions)).toThrow(
      wrong('INVALID_ARGUMENT', 'thinking'),
    )
    await expect(Qwen3.load('nano', { gpu: true } as LoadOptions)).rejects.toThrow(wrong('INVALID_ARGUMENT', 'gpu'))
    const hostile = JSON.parse('{"__proto__": {"x": 1}, "constructor": 1}')
    expect(() => model.generate('x', hostile)).toThrow(wrong('INVALID_ARGUMENT'))
  })

  test.each([[null], [5], ['x'], [[]]])('options that are %j', async (bad) => {
    const options = bad as unknown as ChatOptions
    expect(() => model.chat('x', options)).toThrow(wrong('INVALID_ARGUMENT', 'options'))
    expect(() => model.generate('x', options)).toThrow(wrong('INVALID_ARGUMENT', 'options'))
    await expect(model.logits([1], options)).rejects.toThrow(wrong('INVALID_ARGUMENT', 'options'))
    await expect(Qwen3.load('nano', bad as unknown as LoadOptions)).rejects.toThrow(
      wrong('INVALID_ARGUMENT', 'options'),
    )
  })

  test('token ids: none, fractions, negative, beyond the vocabulary, of another type', async () => {
    const lists: unknown[] = [
      [],
      [1.5],
      [-1],
      [896],
      [1, 2 ** 31],
      [Number.NaN],
      ['1'],
      [1n],
      {},
      null,
      5,
      new DataView(new ArrayBuffer(4)),
      new BigInt64Array(1),
    ]
    for (const ids of lists) {
      const list = ids as number[]
      expect(() => model.generate(list), name(ids)).toThrow(wrong('INVALID_ARGUMENT'))
      await expect(model.logits(list), name(ids)).rejects.toThrow(wrong('INVALID_ARGUMENT'))
      await expect(model.score(list), name(ids)).rejects.toThrow(wrong('INVALID_ARGUMENT'))
    }
    expect(() => model.generate('')).toThrow(wrong('INVALID_ARGUMENT', 'prompt'))
    await expect(model.score([1])).rejects.toThrow(wrong('INVALID_ARGUMENT', 'ids'))
  })

  test('the message says what was expected and what was received; the stack leads to the caller', () => {
    let error: unknown
    const caller = () => model.chat('x', { temperature: Number.NaN })
    try {
      caller()
    } catch (caught) {
      error = caught
    }
    expect(error).toBeInstanceOf(Qwen3Error)
    expect((error as Qwen3Error).message).toBe('temperature: expected a number from 0 to 100, received NaN.')
    expect((error as Qwen3Error).stack).toMatch(/at caller .*api-options\.test/)
  })

  test('nothing of it has left a trace: the model still answers', async () => {
    expect(model.stats()).toMatchObject({ running: 0, waiting: 0 })
    expect((await model.generate([1, 2], { maxTokens: 2, ignoreEos: true }).result()).ids).toHaveLength(2)
  })

  test('undefined stands for the default', async () => {
    const options = { temperature: undefined, stop: undefined, signal: undefined, maxTokens: 2, ignoreEos: true }
    expect((await model.generate([1, 2], options).result()).ids).toHaveLength(2)
  })
})

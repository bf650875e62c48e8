import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Chat, type RequestPlan } from '../lib/chat'
import { ToolCallReader } from '../lib/chat/tool-call'
import type { NativeOutput } from '../lib/native'
import { Tokenizer } from '../lib/tokenizer'
import type { ChatEvent, ChatResult } from '../lib/types'
import { describeModel, modelsDirectory } from '../lib/weights'

const nano = join(modelsDirectory(), 'nano')
const readJson = (file: string) => JSON.parse(readFileSync(join(nano, file), 'utf8'))
const tokenizer = Tokenizer.fromJson(readJson('tokenizer.json'))
const chat = Chat.create(
  {
    chatTemplate: readJson('tokenizer_config.json').chat_template,
    templateVariables: {},
    generationConfig: { eosTokenIds: readJson('generation_config.json').eos_token_id },
  },
  tokenizer,
)
const tools = [{ type: 'function' as const, function: { name: 'f' } }]
const thinkingPlan = chat.plan(chat.render('x', { tools }), {})
const control = new Map(tokenizer.addedTokens().map(({ content, id }) => [content, id]))
const id = (text: string) => control.get(text)!

const THINK = 1
const CLOSING = 2
const ANSWER = 3
const CALL = 4
const FORCED = 0x80

type Token = [id: number, segment: number]
const say = (text: string, segment: number): Token[] =>
  [...tokenizer.encode(text)].map((token): Token => [token, segment])
const tag = (text: string, segment: number): Token => [id(text), segment]
const think = (text: string): Token[] => [
  tag('<think>', THINK),
  ...say(`\n${text}\n`, THINK),
  tag('</think>', CLOSING),
  ...say('\n\n', CLOSING),
]
const call = (text: string, close = true): Token[] => [
  tag('<tool_call>', CALL),
  ...say(text, CALL),
  ...(close ? [tag('</tool_call>', CALL)] : []),
]
const end: Token = [id('<|im_end|>'), ANSWER]

type Finish = Partial<NonNullable<NativeOutput['finished']>>

/** Feeds tokens in pieces of the given sizes (repeated), the last with the finish. */
function run(tokens: Token[], sizes: number[] = [1_000_000], finish: Finish = {}, plan: RequestPlan = thinkingPlan) {
  const assembler = chat.assembler(plan)
  const events: ChatEvent[] = []
  for (let at = 0, k = 0; at < tokens.length || at === 0; k++) {
    const piece = tokens.slice(at, at + sizes[k % sizes.length]!)
    at += Math.max(1, piece.length)
    const output: NativeOutput = {
      id: 1,
      ids: Int32Array.from(piece, ([token]) => token),
      segments: Uint8Array.from(piece, ([, segment]) => segment),
    }
    if (plan.logprobs) {
      output.logprobs = {
        logprob: Float32Array.from(piece, ([token]) => -token),
        topIds: Int32Array.from(piece, ([token]) => token),
        topLogprobs: Float32Array.from(piece, ([token]) => -token),
        topCount: 1,
      }
    }
    if (at >= tokens.length) {
      output.finished = {
        reason: 'stop',
        thinkingStop: 'none',
        stopIndex: -1,
        trimBytes: 0,
        usage: NO_USAGE,
        ...finish,
      }
    }
    events.push(...assembler.push(output))
  }
  return { events, result: assembler.result, assembler }
}

const NO_USAGE = {
  promptTokens: 0,
  cachedTokens: 0,
  thinkingTokens: 0,
  answerTokens: 0,
  toolCallTokens: 0,
  forcedTokens: 0,
  draftTokens: 0,
  acceptedTokens: 0,
  queueMs: 0,
  prefillMs: 0,
  firstTokenMs: 0,
  decodeMs: 0,
  rescaleMs: 0,
}

/** What a consumer sees who only follows the events. */
function replay(events: ChatEvent[]) {
  const seen = {
    thinking: '',
    text: '',
    deltas: new Map<number, { id?: string; name?: string; source: string }>(),
    calls: [] as unknown[],
  }
  for (const event of events) {
    if (event.type === 'thinking') seen.thinking += event.text
    else if (event.type === 'text') seen.text += event.text
    else if (event.type === 'toolCallDelta') {
      const known = seen.deltas.get(event.index)
      if (known === undefined) {
        expect(event.id).toMatch(/^call_[0-9a-f]{24}$/)
        expect(event.name).toBeTypeOf('string')
        seen.deltas.set(event.index, { id: event.id!, name: event.name!, source: event.argumentsDelta })
      } else {
        expect([event.id, event.name]).toEqual([undefined, undefined])
        known.source += event.argumentsDelta
      }
    } else if (event.type === 'toolCall') {
      const delta = seen.deltas.get(event.index)!
      expect(delta).toMatchObject({ id: event.call.id, name: event.call.name })
      expect(JSON.parse(delta.source)).toEqual(event.call.arguments)
      seen.calls.push(event.call)
    }
  }
  return seen
}

const withoutIds = (result: ChatResult) => JSON.stringify(result, (key, value) => (key === 'id' ? 'ID' : value))

describe('thinking and text', () => {
  test('line breaks around thinking and before the answer are the template, inside they are text', () => {
    const { result } = run([...think('\n\nfirst\n\nsecond\n\n'), ...say('\n\nanswer\n\nmore\n', ANSWER), end])
    expect(result).toMatchObject({ thinking: 'first\n\nsecond', text: 'answer\n\nmore\n', finishReason: 'stop' })
    expect(result!.message).toEqual({
      role: 'assistant',
      content: 'answer\n\nmore\n',
      reasoning_content: 'first\n\nsecond',
    })
  })

  test('other blanks stay', () => {
    const { result } = run([...think(' \t x '), ...say('  y ', ANSWER), end])
    expect(result).toMatchObject({ thinking: ' \t x ', text: '  y ' })
  })

  test('the message of a turn renders the prompt that the engine has seen', () => {
    const tokens = [...think('I see'), ...say('Two', ANSWER), end]
    const { message } = run(tokens).result!
    const history = chat.render([{ role: 'user', content: 'x' }, message], { addGenerationPrompt: false })
    const seen = [...tokenizer.encode(chat.render('x').text, { parseSpecial: true }), ...tokens.map(([token]) => token)]
    const rendered = [...tokenizer.encode(history.text, { parseSpecial: true, literal: history.literal })]
    expect(rendered.slice(0, seen.length)).toEqual(seen)
  })

  test('the same for a tool call, arguments as written', () => {
    const tokens = [
      ...think('call it'),
      ...say('So:\n', ANSWER),
      ...call('\n{"name": "f", "arguments": {"a":  1.50}}\n'),
      end,
    ]
    const { message } = run(tokens).result!
    const history = chat.render([{ role: 'user', content: 'x' }, message], { addGenerationPrompt: false })
    const seen = [...tokenizer.encode(chat.render('x').text, { parseSpecial: true }), ...tokens.map(([token]) => token)]
    const rendered = [...tokenizer.encode(history.text, { parseSpecial: true, literal: history.literal })]
    expect(rendered.slice(0, seen.length)).toEqual(seen)
  })

  test('a budget cut: the wrap-up belongs to the thinking, nothing of it to the answer', () => {
    const wrapUp: Token[] = [...thinkingPlan.native.segments.wrapUp].map((token) => [token, CLOSING | FORCED])
    const { result } = run(
      [tag('<think>', THINK), ...say('\nlong', THINK), ...wrapUp, ...say('Answer', ANSWER), end],
      [1],
      { thinkingStop: 'budget' },
    )
    expect(result!.thinking).toBe(
      'long\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.',
    )
    expect(result).toMatchObject({ text: 'Answer', thinkingStop: 'budget' })
  })

  test('stray, nested and unclosed tags never show', () => {
    const tags = [
      '<think>',
      '</think>',
      '<tool_call>',
      '</tool_call>',
      '<tool_response>',
      '<|im_start|>',
      '<|im_end|>',
      '<|endoftext|>',
    ]
    for (const first of tags) {
      for (const segment of [THINK, CLOSING, ANSWER, CALL]) {
        const { events, result } = run(
          [tag(first, segment), ...say('a', THINK), tag(first, segment), ...say('b', ANSWER), tag(first, segment), end],
          [1],
        )
        for (const text of [JSON.stringify(result!.message), JSON.stringify(replay(events).text)]) {
          for (const other of tags) expect(text).not.toContain(other)
        }
      }
    }
  })

  test('thinking that never ended', () => {
    const { result } = run([tag('<think>', THINK), ...say('\nstill', THINK)], [1], {
      reason: 'length',
      thinkingStop: 'unfinished',
    })
    expect(result).toMatchObject({ thinking: 'still', text: '', finishReason: 'length', thinkingStop: 'unfinished' })
  })

  test('no tokens at all', () => {
    const { events, result } = run([])
    expect(events.map(({ type }) => type)).toEqual(['done'])
    expect(result).toMatchObject({ thinking: '', text: '', toolCalls: [], thinkingStop: null })
    expect(result!.message).toEqual({ role: 'assistant', content: '' })
  })

  test('characters of several tokens come whole; bytes that are none become U+FFFD', () => {
    const emoji = tokenizer.encode('🧮ü').length
    expect(emoji).toBeGreaterThan(2)
    for (const event of run([...say('🧮ü', ANSWER), end], [1]).events) {
      if (event.type === 'text') expect(event.text).not.toContain('\ufffd')
    }
    const half = say('🧮', ANSWER).slice(0, 2)
    expect(run([...half, end], [1]).result!.text).toBe('\ufffd')
    expect(run([...half, ...say('a', ANSWER), end], [1]).result!.text).toMatch(/^\ufffd+a$/)
  })

  test('generate(): text as it comes, tags included, line breaks kept', () => {
    const plan = chat.planGenerate({})
    const tokens = [...say('\n\n a\n', ANSWER), tag('<think>', ANSWER), ...say('\n', ANSWER), end]
    for (const sizes of [[1], [100]]) expect(run(tokens, sizes, {}, plan).result!.text).toBe('\n\n a\n<think>\n')
  })

  test('ids of text events are the tokens that made them', () => {
    const tokens = [...think('abc def'), ...say('one two', ANSWER), end]
    const { events, result } = run(tokens, [2])
    const ids = events.flatMap((event) => (event.type === 'text' ? [...event.ids] : []))
    expect(ids).toEqual([...tokenizer.encode('one two')])
    expect([...result!.ids]).toEqual(tokens.map(([token]) => token))
  })
})

describe('stop strings, usage, partial results', () => {
  const plan = chat.plan(chat.render('x'), { stop: ['END', 'x'] })
  test('trimBytes cuts the stop string and what lies behind it, across tokens', () => {
    const tokens = [...say('ab', ANSWER), ...say('cEND', ANSWER), ...say('more', ANSWER)]
    for (const sizes of [[100], [tokens.length - 1, 1], [2, 100]]) {
      // The engine holds back what may belong to a stop string: it all comes in the last output.
      const held = sizes.length === 2 && sizes[1] === 1 ? [2, 100] : sizes
      const { result, events } = run(tokens, held, { stopIndex: 0, trimBytes: 7 }, plan)
      expect(result).toMatchObject({ text: 'abc', stopSequence: 'END', finishReason: 'stop' })
      expect(replay(events).text).toBe('abc')
    }
  })

  test('a cut inside a character leaves no half of it', () => {
    const bytes = Buffer.byteLength('🧮')
    expect(run(say('a🧮', ANSWER), [100], { stopIndex: 1, trimBytes: bytes }, plan).result).toMatchObject({
      text: 'a',
      stopSequence: 'x',
    })
  })

  test('usage sums up', () => {
    const usage = {
      ...NO_USAGE,
      promptTokens: 10,
      cachedTokens: 4,
      thinkingTokens: 3,
      answerTokens: 5,
      toolCallTokens: 2,
      forcedTokens: 1,
      draftTokens: 9,
      acceptedTokens: 6,
      queueMs: 1,
      prefillMs: 2,
      firstTokenMs: 3,
      decodeMs: 4,
      rescaleMs: 5,
    }
    expect(run([end], [1], { usage }).result!.usage).toEqual({
      promptTokens: 10,
      cachedTokens: 4,
      thinkingTokens: 3,
      answerTokens: 5,
      toolCallTokens: 2,
      forcedTokens: 1,
      completionTokens: 11,
      draftTokens: 9,
      acceptedTokens: 6,
      timings: { queueMs: 1, prefillMs: 2, firstTokenMs: 3, decodeMs: 4, rescaleMs: 5 },
    })
  })

  test('aborted: no done event, the rest is flushed, partial() has it', () => {
    const { events, result, assembler } = run([...think('abc'), ...say('de', ANSWER)], [1], { reason: 'aborted' })
    expect(result).toBeUndefined()
    expect(events.every(({ type }) => type !== 'done')).toBe(true)
    expect(assembler.partial()).toMatchObject({ thinking: 'abc', text: 'de', finishReason: 'length' })
  })

  test('log-probabilities: one entry for each id, the text among them, thinking apart', () => {
    const logged = chat.plan(chat.render('x', { tools }), { logprobs: 1, stop: ['END'], ignoreEos: true })
    const wrapUp: Token[] = [...logged.native.segments.wrapUp].map((token) => [token, CLOSING | FORCED])
    const tokens = [
      tag('<think>', THINK),
      ...say('\nabc', THINK),
      ...wrapUp,
      ...say('one', ANSWER),
      end,
      ...call('{"name":"f"}'),
      ...say(' two', ANSWER),
      tag('<think>', ANSWER),
      ...say('END', ANSWER),
    ]
    for (const sizes of [[100], [1, 100]]) {
      const { result } = run(tokens, sizes, { stopIndex: 0, trimBytes: 3 }, logged)
      const entries = result!.logprobs!
      expect(entries.map((entry) => entry.id)).toEqual([...result!.ids])
      expect(entries.every((entry) => entry.logprob === -entry.id && entry.top[0]!.id === entry.id)).toBe(true)
      const of = (segment: string) =>
        entries
          .filter((entry) => entry.segment === segment)
          .map(({ token }) => token)
          .join('')
      expect(of('text')).toBe('one two')
      expect(of('thinking')).toMatch(/^\nabc\n\nConsidering the limited time .* now\.\n$/)
      expect(of('toolCall')).toBe('{"name":"f"}')
      expect(of('control')).toBe('<think></think>\n\n<|im_end|><tool_call></tool_call><think>END')
    }
  })

  test('random: models: ids without a token read as the placeholder', async () => {
    const random = await describeModel('random:qwen3-0.6b')
    const assembler = Chat.create(random, tokenizer).assembler(chat.planGenerate({}))
    const events = assembler.push({
      id: 1,
      ids: Int32Array.of(151_000, 5, 151_935),
      segments: Uint8Array.of(3, 3, 3),
      finished: { reason: 'stop', thinkingStop: 'none', stopIndex: -1, trimBytes: 0, usage: NO_USAGE },
    })
    expect(events[0]).toMatchObject({ type: 'text', text: `□${tokenizer.decode([5])}□` })
  })
})

describe('tool calls', () => {
  const one = '\n{"name": "f", "arguments": {"a": "}{\\"\\\\", "b": [1, {"c": "é🧮"}]}}\n'
  test('name once, arguments in pieces that join to their source, id and index throughout', () => {
    const { events, result } = run([...say('ok\n', ANSWER), ...call(one), end], [1])
    expect(events.filter(({ type }) => type === 'toolCallDelta').length).toBeGreaterThan(5)
    const seen = replay(events)
    expect(seen.deltas.get(0)).toMatchObject({ name: 'f', source: '{"a": "}{\\"\\\\", "b": [1, {"c": "é🧮"}]}' })
    expect(result).toMatchObject({ text: 'ok', finishReason: 'toolCalls' })
    expect(result!.toolCalls).toEqual(seen.calls)
  })

  test('several in parallel', () => {
    const tokens = [
      ...call('{"name":"a","arguments":{}}'),
      ...say('\n', ANSWER),
      ...call('{"name":"b","arguments":{"x":1}}'),
      ...say('\n', ANSWER),
      ...call('{"name":"c"}'),
      end,
    ]
    const { result, events } = run(tokens, [3])
    expect(result!.toolCalls.map(({ name, arguments: args }) => [name, args])).toEqual([
      ['a', {}],
      ['b', { x: 1 }],
      ['c', {}],
    ])
    expect(new Set(result!.toolCalls.map((entry) => entry.id)).size).toBe(3)
    expect([...replay(events).deltas.keys()]).toEqual([0, 1, 2])
    expect(result!.text).toBe('')
  })

  test('a draft inside thinking is no call', () => {
    const draft: Token[] = [tag('<tool_call>', THINK), ...say(one, THINK), tag('</tool_call>', THINK)]
    const { result, events } = run([tag('<think>', THINK), ...draft, tag('</think>', CLOSING), ...call(one), end], [1])
    expect(result!.toolCalls.length).toBe(1)
    expect(events.filter(({ type }) => type === 'toolCall').length).toBe(1)
    expect(result!.thinking).toContain('"name": "f"')
  })

  test.each([
    ['arguments first', '{"arguments": {"x": 1}, "name": "f"}', { x: 1 }],
    ['arguments as JSON text', '{"name": "f", "arguments": "{\\"x\\": 1}"}', { x: 1 }],
    ['null arguments', '{"name": "f", "arguments": null}', {}],
    ['other keys', '{"id": [1, {"name": "no"}], "name": "f", "arguments": {"x": 1}, "z": "}"}', { x: 1 }],
    ['a name with escapes', '{"name": "\\u0066", "arguments": {"x": 1}}', { x: 1 }],
    ['blanks everywhere', ' \n{ "name" : "f" ,\t"arguments" : { "x" : 1 } } \n', { x: 1 }],
  ])('%s', (_, text, expected) => {
    for (const sizes of [[1], [3], [1000]]) {
      const { result, events } = run([...call(text), end], sizes)
      expect(result!.toolCalls).toMatchObject([{ name: 'f', arguments: expected }])
      replay(events)
    }
  })

  const malformed = [
    '',
    ' ',
    'f(1)',
    '[]',
    '{}',
    'null',
    '"f"',
    '{"name": "f"',
    '{"name": 5, "arguments": {}}',
    '{"name": "", "arguments": {}}',
    '{"arguments": {}}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": 5}',
    '{"name": "f", "arguments": "x"}',
    '{"name": "f", "arguments": {"a": }}',
    '{"name": "f", "arguments": {a: 1}}',
    '{"name": "f", "arguments": {"a": 1}',
    '{"name": "f", "arguments": {"a": 1}}}',
    '{"name": "f"} x',
    'x {"name": "f"}',
    '{"name": "f", "arguments": {"a": 1}, "arguments": {"b": 2}}',
    '{"name": "f", "name": "g"}',
    '{"name": "f",}',
    "{'name': 'f'}",
    '{"name": "f", "arguments": {"a": "\n"}}',
    `{"name": "f", "arguments": {"a": ${'['.repeat(200)}${']'.repeat(200)}}}`,
    '{"name": "f", "arguments": {"a": NaN}}',
    '{{"name": "f"}}',
    '{"name" "f"}',
  ]
  test.each(malformed.map((text) => [text]))('malformed, reported as text: %s', (text) => {
    for (const sizes of [[1], [1000]]) {
      const { result, events } = run([...say('A', ANSWER), ...call(text), end], sizes)
      expect(result!.toolCalls).toEqual([])
      expect(result!.finishReason).toBe('stop')
      const trimmed = text.replace(/^\n+|\n+$/g, '')
      expect(result!.text).toBe(trimmed === '' ? 'A' : `A\n${trimmed}`)
      expect(replay(events).text).toBe(result!.text)
    }
  })

  test('a malformed call between good ones keeps the indices apart', () => {
    const { result, events } = run(
      [
        ...call('{"name":"a","arguments":{}}'),
        ...call('{"name":"x","arguments":{'),
        ...call('{"name":"b","arguments":{}}'),
        end,
      ],
      [1],
    )
    expect(result!.toolCalls.map(({ name }) => name)).toEqual(['a', 'b'])
    expect(events.flatMap((event) => (event.type === 'toolCall' ? [event.index] : []))).toEqual([0, 2])
  })

  test('cut off: by length it is text, a whole call without its closing tag is a call', () => {
    expect(run([...call('{"name":"f","argu', false)], [1], { reason: 'length' }).result).toMatchObject({
      toolCalls: [],
      text: '{"name":"f","argu',
    })
    expect(run([...call('{"name":"f"}', false), [id('<|im_end|>'), CALL]], [1]).result!.toolCalls.length).toBe(1)
  })

  test('__proto__ in arguments changes no prototype', () => {
    const { result } = run(
      [
        ...call('{"name":"f","arguments":{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}}'),
        end,
      ],
      [1],
    )
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
    expect(Object.keys(result!.toolCalls[0]!.arguments)).toEqual(['__proto__', 'constructor'])
    expect(Object.getPrototypeOf(result!.toolCalls[0]!.arguments)).toBe(Object.prototype)
  })

  test('linear from 1 KiB to 1 MiB', () => {
    const shapes = process.env.QWEN3_LONG
      ? ['\\"', '{"a":', '[', 'x', '\\\\', '" ', ',', '🧮']
      : ['\\"', '{"a":', 'x', '🧮']
    const time = (text: string) => {
      const before = process.cpuUsage()
      const reader = new ToolCallReader()
      for (let at = 0; at < text.length; at += 3) reader.push(text.slice(at, at + 3))
      reader.finish('id')
      const { user, system } = process.cpuUsage(before)
      return (user + system) / 1000
    }
    for (const shape of shapes) {
      const text = (length: number) => `{"name":"f","arguments":{"a":"${shape.repeat(length / shape.length)}`
      time(text(1 << 16))
      const small = Math.min(...[1, 2, 3].map(() => time(text(1 << 17))))
      const large = Math.min(...[1, 2].map(() => time(text(1 << 20))))
      // Eight times the text: quadratic work would be 64 times the time.
      expect(large).toBeLessThan(24 * Math.max(small, 4))
    }
  })
})

describe('any split gives the same', () => {
  const word = fc.oneof(
    fc.constantFrom(
      '\n',
      '\n\n',
      ' ',
      'a',
      '12',
      '🧮',
      'é',
      '\u0085',
      '你好',
      '<think>',
      '</tool_call>',
      '{',
      '}',
      '"',
      '\\',
    ),
    fc.string({ unit: 'binary', maxLength: 6 }),
  )
  const text = fc.array(word, { maxLength: 8 }).map((parts) => parts.join(''))
  const json = fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.stringify(value))
  const good = fc
    .tuple(
      fc.string({ minLength: 1, maxLength: 5 }),
      fc.dictionary(fc.string({ maxLength: 3 }), fc.jsonValue({ maxDepth: 2 })),
    )
    .map(([name, args]) => JSON.stringify({ name, arguments: args }, null, args.x === undefined ? 0 : 1))
  const part = fc.oneof(
    text.map((value) => say(value, ANSWER)),
    fc.oneof(good, json, text).map((value) => call(value)),
    fc.constantFrom<Token[]>([tag('</think>', CLOSING)], [tag('</tool_call>', ANSWER)], say('🧮', ANSWER).slice(0, 1)),
  )
  const stream = fc
    .tuple(fc.option(text), fc.array(part, { maxLength: 6 }), fc.boolean())
    .map(([thought, parts, ends]): Token[] => [
      ...(thought === null ? [] : think(thought)),
      ...parts.flat(),
      ...(ends ? [end] : []),
    ])
  const sizes = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 5 })

  test('streamed equals unstreamed, events equal the result', () => {
    fc.assert(
      fc.property(stream, sizes, fc.boolean(), (tokens, split, raw) => {
        const plan = raw ? chat.planGenerate({}) : thinkingPlan
        const whole = run(tokens, [1_000_000], {}, plan)
        const parts = run(tokens, split, {}, plan)
        expect(withoutIds(parts.result!)).toBe(withoutIds(whole.result!))
        for (const { events, result } of [whole, parts]) {
          const seen = replay(events)
          expect({ thinking: seen.thinking, text: seen.text, calls: seen.calls }).toEqual({
            thinking: result!.thinking,
            text: result!.text,
            calls: result!.toolCalls,
          })
          expect(events.at(-1)).toEqual({ type: 'done', result })
          for (const event of events)
            if (event.type === 'text' || event.type === 'thinking') expect(event.text).not.toBe('')
        }
      }),
      { numRuns: process.env.QWEN3_LONG ? 50_000 : 600 },
    )
  })
})

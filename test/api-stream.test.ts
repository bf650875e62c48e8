import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AbortedError, type ChatEvent, type ChatOptions, Qwen3, Qwen3Error } from '../lib'

let model: Qwen3

beforeAll(async () => {
  model = await Qwen3.load('nano', { contextLength: 8192 })
  for (const token of ['</think>', '<|im_end|>', '<|endoftext|>']) {
    ENDLESS_THOUGHT.logitBias[model.tokenizer.encode(token, { parseSpecial: true })[0]!] = -100
  }
})
afterAll(() => model.close())

const QUESTION = 'What is 12 + 30 - 7?'
/** Thinks until it is stopped, so that a slow machine cannot reach the end before the call under test. */
const ENDLESS_THOUGHT: ChatOptions & { logitBias: Record<number, number> } = {
  seed: 3,
  logitBias: {},
  loopBreaker: false,
  thinkingBudget: 3000,
  maxTokens: 3100,
}
/** Generates exactly `maxTokens` tokens. */
const endless = (maxTokens: number, seed = 1, signal?: AbortSignal) =>
  model.generate([1, 2, 3, 4, 5], { maxTokens, ignoreEos: true, seed, signal })
const longPrompt = (n: number, first = 0) => Int32Array.from({ length: n }, (_, i) => (first + i) % 250)

async function collect(stream: AsyncIterable<ChatEvent>): Promise<ChatEvent[]> {
  const events: ChatEvent[] = []
  for await (const event of stream) events.push(event)
  return events
}

const textOf = (events: ChatEvent[], type: 'thinking' | 'text') =>
  events.flatMap((event) => (event.type === type ? [event.text] : [])).join('')

const settled = (promise: Promise<unknown>): Promise<AbortedError> =>
  promise.then(
    () => expect.unreachable('it should have been rejected'),
    (error: AbortedError) => error,
  )

describe('events', () => {
  test('thinking, text and done: together they are the result', async () => {
    const stream = model.chat(QUESTION, { seed: 3 })
    const events = await collect(stream)
    const result = await stream.result()
    expect(events.at(-1)).toEqual({ type: 'done', result })
    expect(events.filter((event) => event.type === 'done')).toHaveLength(1)
    expect(textOf(events, 'text')).toBe(result.text)
    expect(textOf(events, 'thinking')).toBe(result.thinking)
    expect(result.thinking).not.toBe('')
    expect(result.message).toMatchObject({ role: 'assistant', content: result.text })
    const kinds = events.map((event) => event.type)
    expect(kinds.lastIndexOf('thinking')).toBeLessThan(kinds.indexOf('text'))
  })

  test('a stream that is never read runs to its end; so do eight at once, each as if it were alone', async () => {
    const alone = await Promise.all([1, 2, 3].map((seed) => endless(40, seed).result()))
    const together = Array.from({ length: 8 }, (_, i) => endless(40, (i % 3) + 1))
    const results = await Promise.all(together.map((stream) => stream.result()))
    results.forEach((result, i) => {
      expect(result.ids).toEqual(alone[i % 3]!.ids)
    })
  })

  test('a slow reader gets merged events and loses nothing', async () => {
    const stream = endless(200)
    await stream.result()
    const events = await collect(stream)
    const { text, ids } = await stream.result()
    expect(events.map((event) => event.type)).toEqual(['text', 'done'])
    expect(events[0]).toMatchObject({ text })
    // Text carries the tokens that are text: the control tokens among the ids are not.
    expect((events[0] as { ids: Int32Array }).ids).toEqual(ids.filter((id) => !model.tokenizer.isSpecial(id)))
  })

  test('the event loop blocked for three seconds in mid-stream: nothing lost, few events', async () => {
    const expected = await endless(400).result()
    const stream = endless(400)
    const events: ChatEvent[] = []
    for await (const event of stream) {
      events.push(event)
      if (events.length === 3) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3000)
    }
    expect((await stream.result()).ids).toEqual(expected.ids)
    expect(textOf(events, 'text')).toBe(expected.text)
    // What came in those three seconds is one event.
    expect(events.length).toBeLessThan(400)
  })

  test('calls of next() that wait are served in order', async () => {
    const iterator = endless(3)[Symbol.asyncIterator]()
    const results = await Promise.all([1, 2, 3, 4, 5, 6].map(() => iterator.next()))
    const kinds = results.map((result) => (result.done ? 'end' : result.value.type))
    expect(kinds.slice(0, kinds.indexOf('done'))).toEqual(kinds.slice(0, kinds.indexOf('done')).map(() => 'text'))
    expect(kinds.slice(kinds.indexOf('done') + 1)).toEqual(kinds.slice(kinds.indexOf('done') + 1).map(() => 'end'))
    expect(kinds).toContain('done')
    expect(kinds.at(-1)).toBe('end')
  })
})

describe('the object', () => {
  test('is not thenable; result() is always the same promise', async () => {
    const stream = endless(3)
    expect('then' in stream).toBe(false)
    expect(await Promise.resolve(stream)).toBe(stream)
    expect(stream.result()).toBe(stream.result())
    await stream.result()
    expect(stream.result()).toBe(stream.result())
  })

  test('has one iterator: the second is STREAM_CONSUMED, result() still works', async () => {
    const stream = endless(3)
    await collect(stream)
    expect(() => stream[Symbol.asyncIterator]()).toThrow(expect.objectContaining({ code: 'STREAM_CONSUMED' }))
    await expect(collect(stream)).rejects.toMatchObject({ code: 'STREAM_CONSUMED' })
    expect((await stream.result()).ids).toHaveLength(3)
  })

  test('failures that nobody looks at are no unhandledRejection', async () => {
    const unhandled: unknown[] = []
    const listener = (reason: unknown) => unhandled.push(reason)
    process.on('unhandledRejection', listener)
    const controller = new AbortController()
    endless(1000, 1, controller.signal)
    endless(1000, 2, AbortSignal.abort())
    model.generate(longPrompt(8192))
    controller.abort()
    await delay(300)
    process.off('unhandledRejection', listener)
    expect(unhandled).toEqual([])
  })
})

describe('ending early', () => {
  test('break cancels, and its blocks are free when the loop is left', async () => {
    const stream = endless(8000)
    for await (const event of stream) {
      expect(event.type).toBe('text')
      break
    }
    expect(model.stats().running).toBe(0)
    const error = await settled(stream.result())
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORTED' })
    expect(error.partial.ids.length).toBeGreaterThan(0)
  })

  test('a signal rejects with AbortError, ABORTED, its reason and the result so far', async () => {
    const controller = new AbortController()
    const stream = model.chat(QUESTION, { seed: 3, ignoreEos: true, signal: controller.signal })
    const reason = new Error('enough')
    const seen: ChatEvent[] = []
    const reading = (async () => {
      for await (const event of stream) {
        seen.push(event)
        if (seen.length === 4) controller.abort(reason)
      }
    })()
    const error = await settled(reading)
    expect(error).toBeInstanceOf(Qwen3Error)
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORTED', cause: reason })
    expect(await settled(stream.result())).toBe(error)
    const { partial } = error
    expect(partial.thinking + partial.text).toBe(textOf(seen, 'thinking') + textOf(seen, 'text'))
    expect(partial.usage.completionTokens).toBe(partial.ids.length)
    expect(error.stack).toContain('api-stream.test')
  })

  test('a timeout rejects with TimeoutError', async () => {
    const error = await settled(endless(8000, 1, AbortSignal.timeout(50)).result())
    expect(error).toMatchObject({ name: 'TimeoutError', code: 'ABORTED' })
    expect((error.cause as Error).name).toBe('TimeoutError')
  })

  test('abort() without a signal, and once only', async () => {
    const stream = endless(8000)
    stream.abort('first')
    stream.abort('second')
    expect(await settled(stream.result())).toMatchObject({ code: 'ABORTED', cause: 'first' })
  })

  test('a signal that is aborted already: nothing runs', async () => {
    const before = model.stats()
    const error = await settled(endless(5, 1, AbortSignal.abort('no')).result())
    expect(error).toMatchObject({ code: 'ABORTED', cause: 'no' })
    expect(error.partial).toMatchObject({ text: '', thinking: '', toolCalls: [] })
    expect(model.stats()).toMatchObject({ running: 0, waiting: 0, promptTokens: before.promptTokens })
  })

  test('an unread stream aborted in prefill frees its blocks within one step', async () => {
    await expect.poll(() => model.stats().running).toBe(0)
    const controller = new AbortController()
    const stream = model.generate(longPrompt(7500, 100), { signal: controller.signal })
    while (model.stats().running === 0) await delay(1)
    const started = model.stats()
    controller.abort()
    const error = await settled(stream.result())
    const after = model.stats()
    expect(error.partial.ids).toHaveLength(0)
    // What was computed may stay as a prefix for others; nobody holds it.
    const { freeBlocks, cachedBlocks, totalBlocks } = after.kvCache
    expect(freeBlocks + cachedBlocks).toBe(totalBlocks)
    expect(after.running).toBe(0)
    // The step that ran when the signal came, and at most one after it.
    expect(after.steps - started.steps).toBeLessThanOrEqual(2)
    expect(error.partial.usage.promptTokens).toBe(7500)
  })

  test('a signal does not keep a finished stream: no listener is left', async () => {
    const controller = new AbortController()
    let listeners = 0
    const { signal } = controller
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++
      return add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--
      return remove(...args)
    }
    await endless(3, 1, signal).result()
    expect(listeners).toBe(0)
  })
})

describe('steering', () => {
  test('endThinking() prefills only the wrap-up and the answer follows', async () => {
    const stream = model.chat(QUESTION, ENDLESS_THOUGHT)
    for await (const event of stream) if (event.type === 'thinking') stream.endThinking()
    const { thinkingStop, usage, text, thinking } = await stream.result()
    expect(thinkingStop).toBe('requested')
    expect(usage.forcedTokens).toBeGreaterThan(0)
    expect(usage.thinkingTokens).toBeLessThan(3000)
    expect(text).not.toBe('')
    expect(thinking).not.toContain('</think>')
    expect(text).not.toContain('</think>')
  })

  test('endThinking() right after the call, before the engine has it', async () => {
    const stream = model.chat(QUESTION, { seed: 3 })
    stream.endThinking()
    const { thinkingStop, text } = await stream.result()
    expect(thinkingStop).toBe('requested')
    expect(text).not.toBe('')
  })

  test('setThinkingBudget() while it runs; bad values are refused', async () => {
    const stream = model.chat(QUESTION, ENDLESS_THOUGHT)
    for (const tokens of [-1, 1.5, Number.NaN, '5' as unknown as number]) {
      expect(() => stream.setThinkingBudget(tokens)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    }
    // Far more than is thought until the engine has it.
    stream.setThinkingBudget(2000)
    const { thinkingStop, usage } = await stream.result()
    expect(thinkingStop).toBe('budget')
    // Control tokens, the opening tag among them, count as thinking, not against the budget.
    expect(usage.thinkingTokens).toBeLessThan(2100)
    stream.endThinking()
    stream.setThinkingBudget(Number.POSITIVE_INFINITY)
  })
})

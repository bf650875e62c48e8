import { setTimeout as delay } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type ChatMessage, Qwen3, Tokenizer } from '../lib'
import { modelsDirectory } from '../lib/weights'
import { writeTinyModel } from './helpers/tiny-model'

const LONG = process.env.QWEN3_LONG === '1'
let model: Qwen3

beforeAll(async () => {
  model = await Qwen3.load('nano', { contextLength: 4096 })
})
afterAll(() => model.close())

const QUESTION = 'What is 12 + 30 - 7?'
const promptOf = (messages: string | ChatMessage[], options = {}) =>
  model.tokenizer.encode(model.renderChat(messages, options), { parseSpecial: true })

describe('load', () => {
  test('by name, by path and by file URL: the same model', async () => {
    const folder = `${modelsDirectory()}/nano`
    const expected = await model.logits([1, 2, 3])
    for (const name of ['nano', folder, pathToFileURL(folder), pathToFileURL(folder).href]) {
      const other = await Qwen3.load(name)
      expect(await other.logits([1, 2, 3])).toEqual(expected)
      await other.close()
    }
  })

  test('info says what was chosen', () => {
    expect(model.info).toMatchObject({
      name: 'nano',
      architecture: 'qwen3',
      contextLength: 4096,
      nativeWindow: 2048,
      weights: 'bf16',
      kvCache: 'bf16',
      device: 'cpu',
      thinking: 'hybrid',
      vocabSize: model.tokenizer.vocabLimit,
    })
    expect(Object.isFrozen(model.info)).toBe(true)
  })

  test('defaults: the native window, f32 cache with f32 weights', async () => {
    const other = await Qwen3.load('nano', { weights: 'f32' })
    expect(other.info).toMatchObject({ contextLength: 2048, weights: 'f32', kvCache: 'f32' })
    await other.close()
  })

  test('progress rises to the total', async () => {
    const tiny = writeTinyModel()
    const seen: number[] = []
    let total = 0
    const other = await Qwen3.load(tiny.directory, {
      onProgress({ loadedBytes, totalBytes }) {
        seen.push(loadedBytes)
        total = totalBytes
      },
    })
    expect(seen.length).toBeGreaterThan(0)
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
    expect(seen.at(-1)).toBe(total)
    await other.close()
    tiny.remove()
  })

  test('a progress callback that throws ends the load with its error', async () => {
    const tiny = writeTinyModel()
    const mine = new Error('mine')
    const onProgress = () => {
      throw mine
    }
    await expect(Qwen3.load(tiny.directory, { onProgress })).rejects.toBe(mine)
    tiny.remove()
  })

  test('a signal ends it: before, and in the middle', async () => {
    await expect(Qwen3.load('nano', { signal: AbortSignal.abort('no') })).rejects.toMatchObject({
      name: 'AbortError',
      code: 'ABORTED',
      cause: 'no',
    })
    const controller = new AbortController()
    const started = performance.now()
    const loading = Qwen3.load('random:qwen3-4b', {
      signal: controller.signal,
      contextLength: 64,
      onProgress: () => controller.abort('changed my mind'),
    })
    await expect(loading).rejects.toMatchObject({ name: 'AbortError', code: 'ABORTED', cause: 'changed my mind' })
    // The whole load makes 8 GB of weights.
    expect(performance.now() - started).toBeLessThan(20_000)
  })

  test('a model larger than memory: OUT_OF_MEMORY at once, naming the sizes', async () => {
    const started = performance.now()
    const loading = Qwen3.load('random:qwen3-235b-a22b')
    await expect(loading).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    await expect(loading).rejects.toThrow(/needs [\d,]+ MB for weights .* [\d,]+ MB of memory are available/)
    expect(performance.now() - started).toBeLessThan(10_000)
  })

  test('a KV cache larger than memory: OUT_OF_MEMORY', async () => {
    await expect(Qwen3.load('nano', { kvCacheBytes: 2 ** 50 })).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
  })

  test('loaded twice: weights are shared, answers are equal, each has its own cache', async () => {
    const tiny = writeTinyModel({ config: { num_hidden_layers: 4, intermediate_size: 2048, hidden_size: 512 } })
    const rss = () => process.memoryUsage().rss
    const first = await Qwen3.load(tiny.directory, { contextLength: 256 })
    const before = rss()
    const others = await Promise.all(
      Array.from({ length: 8 }, () => Qwen3.load(tiny.directory, { contextLength: 256 })),
    )
    const { weightBytes, kvCache } = first.stats()
    const perModel = (rss() - before) / others.length
    expect(weightBytes).toBeGreaterThan(10e6)
    expect(perModel).toBeLessThan(kvCache.totalBlocks * kvCache.blockBytes + weightBytes / 2)
    const answers = await Promise.all(
      [first, ...others].map((one) => one.generate([1, 2], { seed: 1, maxTokens: 20 }).result()),
    )
    for (const answer of answers) expect(answer.ids).toEqual(answers[0]!.ids)
    // Closing one leaves the others alone.
    await first.close()
    expect((await others[0]!.generate([1, 2], { seed: 1, maxTokens: 20 }).result()).ids).toEqual(answers[0]!.ids)
    await Promise.all(others.map((other) => other.close()))
    tiny.remove()
  })

  test(`${LONG ? 1000 : 100} load and close cycles return to the baseline memory`, { timeout: 600_000 }, async () => {
    const cycle = async () => {
      const other = await Qwen3.load('nano', { contextLength: 256, threads: 1 })
      await other.generate([1, 2, 3], { maxTokens: 3, ignoreEos: true }).result()
      await other.close()
    }
    for (let i = 0; i < 10; i++) await cycle()
    const baseline = process.memoryUsage().rss
    for (let i = 0; i < (LONG ? 1000 : 100); i++) await cycle()
    // One model's weights and cache are about 10 MB, its tokenizer 2: a leak of one in ten would show.
    expect(process.memoryUsage().rss - baseline).toBeLessThan(100e6)
  })

  test("a synthetic model: the family row over nano's tokenizer", { timeout: 300_000 }, async () => {
    const other = await Qwen3.load('random:qwen3-0.6b', { contextLength: 256, randomSeed: 7 })
    expect(other.info).toMatchObject({ vocabSize: 151936, architecture: 'qwen3' })
    const { ids, text } = await other.generate([1, 2, 3], { maxTokens: 4, seed: 1, ignoreEos: true }).result()
    expect(ids).toHaveLength(4)
    expect(text).not.toBe('')
    expect(other.tokenizer.decode([151935])).toBe('')
    await other.close()
  })
})

describe('logits and score', () => {
  test('score is the log-softmax of the logits before it', async () => {
    const ids = [...promptOf(QUESTION)].slice(0, 12)
    const scores = await model.score(ids)
    expect(scores).toHaveLength(ids.length - 1)
    for (const at of [1, 5, 11]) {
      const logits = await model.logits(ids.slice(0, at))
      expect(logits).toHaveLength(model.info.vocabSize)
      const most = Math.max(...logits)
      const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0)
      expect(scores[at - 1]).toBeCloseTo(logits[ids[at]!]! - most - Math.log(sum), 3)
    }
  })

  test('greedy generation follows the logits', async () => {
    const ids = [...promptOf(QUESTION)]
    const { ids: next } = await model.generate(ids, { temperature: 0, maxTokens: 3, ignoreEos: true }).result()
    for (const id of next) {
      const logits = await model.logits(ids)
      expect(id).toBe(logits.indexOf(Math.max(...logits)))
      ids.push(id)
    }
  })

  test('both can be cancelled, and reject when the model is closed', async () => {
    const other = await Qwen3.load('nano', { contextLength: 4096 })
    const long = Int32Array.from({ length: 4000 }, (_, i) => (i * 7) % 250)
    const signal = AbortSignal.timeout(20)
    await expect(other.logits(long, { signal })).rejects.toMatchObject({ name: 'TimeoutError', code: 'ABORTED' })
    await expect(other.score(long, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
    const pending = other.logits(long.map((id) => id + 1))
    const [outcome] = await Promise.allSettled([pending, other.close()])
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ABORTED' } })
  })
})

describe('seeds and sampling', () => {
  test('a random seed is returned and repeats the answer', async () => {
    const [first, second] = await Promise.all([1, 2].map(() => model.chat('Tell me 5 * 7', { maxTokens: 60 }).result()))
    expect(first!.seed).not.toBe(second!.seed)
    for (const { seed } of [first!, second!]) expect(Number.isSafeInteger(seed) && seed >= 0).toBe(true)
    const again = await model.chat('Tell me 5 * 7', { maxTokens: 60, seed: first!.seed }).result()
    expect(again.ids).toEqual(first!.ids)
  })

  test('the largest seed is exact', async () => {
    const options = { maxTokens: 30, ignoreEos: true, temperature: 2 }
    const most = Number.MAX_SAFE_INTEGER
    const a = await model.generate([1], { ...options, seed: most }).result()
    const b = await model.generate([1], { ...options, seed: most - 1 }).result()
    expect(a.seed).toBe(most)
    expect(a.ids).not.toEqual(b.ids)
  })

  test('greedy decoding while thinking is warned of once', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    for (let i = 0; i < 3; i++) await model.chat(QUESTION, { temperature: 0, maxTokens: 2 }).result()
    expect(warn).toHaveBeenCalledTimes(1)
    expect(warn.mock.calls[0]![0]).toMatch(/greedy|temperature/i)
    await model.chat(QUESTION, { temperature: 0, thinking: false, maxTokens: 2 }).result()
    expect(warn).toHaveBeenCalledTimes(1)
    warn.mockRestore()
  })
})

describe('context and cache', () => {
  test('a prompt longer than the context: CONTEXT_OVERFLOW with both numbers, and the model goes on', async () => {
    const stream = model.generate(new Int32Array(5000))
    await expect(stream.result()).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    await expect(stream.result()).rejects.toThrow(/5,?000[\s\S]*4,?096|4,?096[\s\S]*5,?000/)
    await expect(stream[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    await expect(model.logits(new Int32Array(5000))).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    expect((await model.generate([1], { maxTokens: 1, ignoreEos: true }).result()).ids).toHaveLength(1)
  })

  test('maxTokens defaults to the rest of the context', async () => {
    const other = await Qwen3.load('nano', { contextLength: 128 })
    const { ids, finishReason, usage } = await other.generate([1, 2, 3], { ignoreEos: true }).result()
    expect(finishReason).toBe('length')
    expect(usage.promptTokens + ids.length).toBe(128)
    await other.close()
  })

  test('turn two of a chat prefills only the new tokens', async () => {
    const messages: ChatMessage[] = [{ role: 'user', content: 'What is 17 + 4?' }]
    const first = await model.chat(messages, { thinking: false, seed: 1 }).result()
    messages.push(first.message, { role: 'user', content: 'And 3 more?' })
    const second = await model.chat(messages, { thinking: false, seed: 1 }).result()
    const shared = commonPrefix(promptOf(messages, { thinking: false }), [
      ...promptOf(messages.slice(0, 1), { thinking: false }),
      ...first.ids,
    ])
    expect(shared).toBeGreaterThan(first.usage.promptTokens / 2)
    // The last sampled token was never run, and one token is always computed for the logits.
    expect(second.usage.cachedTokens).toBeGreaterThanOrEqual(shared - 1)
    expect(second.usage.cachedTokens).toBeLessThan(second.usage.promptTokens)
  })

  test('prompt plus ids equals the tokens in the cache, wrap-up included', async () => {
    const question = 'Work out 45 * 3 - 20.'
    const prompt = promptOf(question)
    const { ids, usage, thinkingStop } = await model.chat(question, { thinkingBudget: 8, seed: 5 }).result()
    expect(thinkingStop).toBe('budget')
    expect(usage.forcedTokens).toBeGreaterThan(0)
    expect(usage.completionTokens).toBe(ids.length)
    const whole = [...prompt, ...ids]
    const next = await model.generate([...whole, 1], { maxTokens: 1 }).result()
    expect(next.usage.cachedTokens).toBe(whole.length - 1)
  })

  test('endThinking() prefills only the wrap-up: no prompt token is computed again', async () => {
    const question = 'Work out 91 - 13 + 5.'
    const before = model.stats()
    const stream = model.chat(question, { seed: 2 })
    for await (const event of stream) if (event.type === 'thinking') stream.endThinking()
    const { usage } = await stream.result()
    const after = model.stats()
    expect(usage.forcedTokens).toBeGreaterThan(0)
    expect(after.promptTokens - before.promptTokens).toBe(usage.promptTokens)
    // The wrap-up is one chunk: a step for the prompt, one for it, one for each sampled token.
    expect(after.steps - before.steps).toBeLessThanOrEqual(usage.completionTokens - usage.forcedTokens + 3)
  })

  test('the parts of usage add up', async () => {
    const { usage, ids } = await model.chat(QUESTION, { seed: 3, thinkingBudget: 10 }).result()
    const { thinkingTokens, answerTokens, toolCallTokens, forcedTokens, completionTokens } = usage
    expect(thinkingTokens + answerTokens + toolCallTokens + forcedTokens).toBe(completionTokens)
    expect(completionTokens).toBe(ids.length)
    for (const ms of Object.values(usage.timings)) expect(ms).toBeGreaterThanOrEqual(0)
    expect(usage.timings.firstTokenMs).toBeGreaterThan(0)
  })

  test('more sequences than places wait their turn', async () => {
    const other = await Qwen3.load('nano', { maxSequences: 2, contextLength: 256 })
    const streams = Array.from({ length: 7 }, (_, i) =>
      other.generate([i + 1], { maxTokens: 30, ignoreEos: true, seed: 1 }),
    )
    await delay(1)
    expect(other.stats().running).toBeLessThanOrEqual(2)
    for (const stream of streams) expect((await stream.result()).ids).toHaveLength(30)
    await other.close()
  })
})

describe('close', () => {
  test('while generating: every stream ends with ABORTED, cause CLOSED; then every call is CLOSED', async () => {
    const other = await Qwen3.load('nano', { contextLength: 4096 })
    const streams = [
      other.chat(QUESTION, { ignoreEos: true }),
      other.generate([1], { ignoreEos: true }),
      other.generate(
        Int32Array.from({ length: 1000 }, (_, i) => i % 250),
        { ignoreEos: true },
      ),
      other.chat('word '.repeat(600), { ignoreEos: true }),
    ]
    await delay(10)
    const reading = (async () => {
      for await (const _ of streams[1]!);
    })()
    const closing = other.close()
    const outcomes = await Promise.allSettled([...streams.map((stream) => stream.result()), reading])
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({
        status: 'rejected',
        reason: { name: 'AbortError', code: 'ABORTED', cause: { code: 'CLOSED' }, partial: expect.anything() },
      })
    }
    await closing
    const closed = expect.objectContaining({ code: 'CLOSED' })
    expect(() => other.chat('x')).toThrow(closed)
    expect(() => other.generate('x')).toThrow(closed)
    expect(() => other.renderChat('x')).toThrow(closed)
    expect(() => other.stats()).toThrow(closed)
    await expect(other.logits([1])).rejects.toThrow(closed)
    await expect(other.score([1, 2])).rejects.toThrow(closed)
    expect(other.close()).toBe(closing)
    // What has no engine still works.
    expect(other.tokenizer.encode('1')).toHaveLength(1)
  })

  test('Symbol.asyncDispose closes', async () => {
    const other = await Qwen3.load('nano')
    await other[Symbol.asyncDispose]()
    expect(() => other.stats()).toThrow(expect.objectContaining({ code: 'CLOSED' }))
  })

  test('steering and aborting a stream of a closed model does nothing', async () => {
    const other = await Qwen3.load('nano')
    const stream = other.chat(QUESTION)
    await other.close()
    stream.endThinking()
    stream.setThinkingBudget(5)
    stream.abort()
    await expect(stream.result()).rejects.toMatchObject({ code: 'ABORTED' })
  })
})

describe('the event loop', () => {
  test('a long prompt is encoded in slices: the loop turns while it is', async () => {
    const text = 'The quick brown fox jumps over 12 lazy dogs. '.repeat(40_000)
    let turns = 0
    let counting = true
    const count = () => {
      turns++
      if (counting) setImmediate(count)
    }
    count()
    const stream = model.generate(text)
    await expect(stream.result()).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    counting = false
    expect(turns).toBeGreaterThan(20)
  })

  test("the tokenizer is the directory's", async () => {
    const tokenizer = await Tokenizer.load(`${modelsDirectory()}/nano`)
    expect(model.tokenizer.encode(QUESTION)).toEqual(tokenizer.encode(QUESTION))
  })
})

function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) length++
  return length
}

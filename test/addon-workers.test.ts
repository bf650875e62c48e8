import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Qwen3 } from '../lib'
import { type CompiledLibrary, compileLibrary, fixture } from './helpers/library'
import { random } from './helpers/tiny-model'

/** Terminated workers, in all. */
const ROUNDS = process.env.QWEN3_LONG === '1' ? 10_000 : Number(process.env.QWEN3_WORKERS ?? 400)
const AT_ONCE = 3

let library: CompiledLibrary

beforeAll(() => {
  library = compileLibrary()
})
afterAll(() => library.remove())

const spawn = (data: { task: 'answer' | 'busy'; prompt?: number }) =>
  new Worker(fixture('worker.cjs'), { workerData: { library: library.index, ...data } })

test('a worker loads, chats and ends; the main thread and other workers agree with it', async () => {
  const model = await Qwen3.load('nano')
  const here = await model.chat('What is 12 + 30 - 7?', { seed: 3, maxTokens: 40 }).result()
  const workers = [1, 2, 3].map(() => spawn({ task: 'answer' }))
  const ended = workers.map((worker) => Promise.all([once(worker, 'message'), once(worker, 'exit')]))
  const outcomes = await Promise.all(ended)
  expect(outcomes.map(([, [code]]) => code)).toEqual([0, 0, 0])
  for (const [[answer]] of outcomes) expect(answer).toEqual({ text: here.text, ids: [...here.ids] })
  await model.close()
})

test(`${ROUNDS} workers terminated while loading, in prefill and in decode: no crash, memory flat`, {
  timeout: 3_600_000,
}, async () => {
  const uniform = random(Number(process.env.QWEN3_SEED ?? 1))
  let turn = 0
  const reached = { start: 0, loaded: 0, token: 0 }
  /** One worker, terminated at once, after it has loaded (so in prefill), or after a token; a moment later in each case. */
  const round = async (prompt: number) => {
    const moments = ['start', 'loaded', 'token'] as const
    const moment = moments[turn++ % moments.length]!
    const worker = spawn({ task: 'busy', prompt })
    const failed = once(worker, 'error').then(([error]) => Promise.reject(error))
    const message = moment === 'start' ? once(worker, 'online') : waitFor(worker, moment)
    await Promise.race([message, failed])
    reached[moment]++
    await new Promise((resolve) => setTimeout(resolve, uniform() * (moment === 'start' ? 60 : 8)))
    failed.catch(() => {})
    expect(await worker.terminate()).toBe(1)
  }
  const rounds = async (count: number) => {
    let left = count
    const lane = async () => {
      while (left-- > 0) await round(uniform() < 0.5 ? 1500 : 10)
    }
    await Promise.all(Array.from({ length: AT_ONCE }, lane))
  }
  await rounds(Math.ceil(ROUNDS / 3))
  const settled = process.memoryUsage().rss
  await rounds(ROUNDS - Math.ceil(ROUNDS / 3))
  const growth = process.memoryUsage().rss - settled
  expect(Math.min(reached.start, reached.loaded, reached.token)).toBeGreaterThanOrEqual(Math.floor(ROUNDS / 3))
  // A model's KV cache alone is 50 MB, its weights 5 MB: what a leak of one worker in twenty would show.
  expect(growth).toBeLessThan(200e6)
  // The addon still works.
  const model = await Qwen3.load('nano')
  expect((await model.generate([1, 2, 3], { maxTokens: 3, ignoreEos: true }).result()).ids).toHaveLength(3)
  await model.close()
})

function waitFor(worker: Worker, wanted: string): Promise<void> {
  return new Promise((resolve) => {
    const listener = (message: unknown) => {
      if (message !== wanted) return
      worker.off('message', listener)
      resolve()
    }
    worker.on('message', listener)
  })
}

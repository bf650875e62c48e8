// Whole models through the addon on the emulated CUDA device, teacher-forced against the CPU. Runs where QWEN3_CUDA_LIBRARY names
// libqwen3_cuda_emulated.so (npm run test:cuda); elsewhere there is nothing to run on.
import { describe, expect, test } from 'vitest'
import { type LoadOptions, Qwen3 } from '../lib'

const PROMPT = '12 + 30 - 7 = 35. Which number comes next: 2, 4, 8, 16?'

describe.skipIf(!process.env.QWEN3_CUDA_LIBRARY?.includes('emulated'))('CUDA on the emulation', () => {
  test.each(['nano', 'nano-moe'])(
    '%s: the tokens, experts and probabilities of the CPU',
    { timeout: 300_000 },
    async (name) => {
      const cpu = await Qwen3.load(name, { device: 'cpu', weights: 'bf16', contextLength: 256 })
      const cuda = await Qwen3.load(name, { device: 'cuda', weights: 'bf16', contextLength: 256 })
      const ids = cpu.tokenizer.encode(PROMPT)

      for (const n of [1, 5, 12, 20, ids.length]) {
        const best = largest(await cpu.logits(ids.slice(0, n)))
        const ours = largest(await cuda.logits(ids.slice(0, n)))
        // Two bf16 paths differ by about 0.5 % (docs/numerics.md): beyond that margin the first token is the same.
        if (best.margin > 0.05 * Math.abs(best.value)) expect(ours.index).toBe(best.index)
      }
      const scores = await cpu.score(ids)
      for (const [i, score] of (await cuda.score(ids)).entries())
        expect(Math.abs(score - (scores[i] as number))).toBeLessThan(0.3)

      const wanted = cpu.stats().experts?.counts.flatMap((layer) => [...layer])
      const counts = cuda.stats().experts?.counts.flatMap((layer) => [...layer])
      expect(counts?.length).toBe(wanted?.length)
      if (wanted && counts) {
        const total = wanted.reduce((a, b) => a + b, 0)
        const differing = wanted.reduce((sum, n, i) => sum + Math.abs(n - (counts[i] as number)), 0)
        expect(differing).toBeLessThanOrEqual(total / 25) // a choice next to a tie may go the other way
      }
      await cpu.close()
      await cuda.close()
    },
  )

  test('tokens drawn on the device are those of the sampler on the host, in both grades', {
    timeout: 300_000,
  }, async () => {
    for (const batchInvariance of ['batch', 'full'] as const) {
      const model = await Qwen3.load('nano', { device: 'cuda', contextLength: 128, maxSequences: 4, batchInvariance })
      const ask = (seed: number, logprobs?: number) =>
        model
          .generate('The capital of France', {
            maxTokens: 4,
            temperature: 1.2,
            topP: 0.9,
            presencePenalty: 0.5,
            ignoreEos: true,
            seed,
            logprobs,
          })
          .result()
      const drawn = await Promise.all([ask(1), ask(2)])
      const chosen = await Promise.all([ask(1, 0), ask(2, 0)]) // by the host: penalties, and no small top-k
      expect(drawn.map(({ ids }) => ids)).toEqual(chosen.map(({ ids }) => ids))
      expect(drawn.map(({ ids }) => ids.length)).toEqual([4, 4])
      await model.close()
    }
  })

  test("'auto' is the GPU, but the CPU where a format, a forced ISA level or a lack of memory asks for it", {
    timeout: 300_000,
  }, async () => {
    const deviceOf = async (options: LoadOptions) => {
      const model = await Qwen3.load('nano', { contextLength: 128, ...options })
      await model.close()
      return model.info.device
    }
    expect(await deviceOf({})).toBe('cuda:0')
    expect(await deviceOf({ device: 'auto', weights: 'bf16' })).toBe('cuda:0')
    expect(await deviceOf({ device: 'cpu' })).toBe('cpu')
    expect(await deviceOf({ weights: 'int8' })).toBe('cpu')
    expect(await deviceOf({ headWeights: 'int8' })).toBe('cpu')
    expect(await deviceOf({ kvCache: 'f32' })).toBe('cpu')
    expect(await deviceOf({ isa: 'scalar' })).toBe('cpu')
    process.env.QWEN3_EMULATED_MEMORY = String(100e6)
    try {
      expect(await deviceOf({})).toBe('cpu')
    } finally {
      delete process.env.QWEN3_EMULATED_MEMORY
    }
  })

  test('a device that is not there, formats that CUDA does not hold', async () => {
    await expect(Qwen3.load('nano', { device: 'cuda:7' })).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      subject: 'device',
    })
    await expect(Qwen3.load('nano', { device: 'cuda', weights: 'int8' })).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      subject: 'weights',
    })
  })
})

function largest(values: Float32Array) {
  let index = 0
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[index] as number)) index = i
  const value = values[index] as number
  let second = Number.NEGATIVE_INFINITY
  values.forEach((x, i) => {
    if (i !== index && x > second) second = x
  })
  return { index, value, margin: value - second }
}

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ChatOptions, type ChatResult, type GenerateOptions, type LoadOptions, Qwen3, type Tool } from '../lib'
import { qwen3 } from './helpers/command'

let model: Qwen3

beforeAll(async () => {
  model = await Qwen3.load('nano')
})
afterAll(() => model.close())

const QUESTION = 'Start with 47. Step 1: add 38. Step 2: double it. Step 3: minus 55. What is the result?'
const speculation = { type: 'prompt-lookup' } as const

/** Everything that a caller may rely on; times and the counts of drafts are left out. */
function outcome({ usage, toolCalls, message: _, ...rest }: ChatResult) {
  const { timings: _timings, draftTokens: _draft, acceptedTokens: _accepted, cachedTokens: _cached, ...counts } = usage
  return { ...rest, toolCalls: toolCalls.map(({ id: _id, ...call }) => call), usage: counts }
}

const tools: Tool[] = [
  {
    type: 'function',
    function: {
      name: 'calculator',
      description: 'Evaluate an arithmetic expression.',
      parameters: { type: 'object', properties: { expression: { type: 'string' } }, required: ['expression'] },
    },
  },
]

describe('the output is the same with and without', () => {
  const cases: [string, ChatOptions][] = [
    ['as it comes', {}],
    ['greedy', { temperature: 0 }],
    ['without thinking', { thinking: false }],
    ['log-probabilities', { logprobs: 3 }],
    ['a budget', { thinkingBudget: 24 }],
    ['a budget, cut at once', { thinkingBudget: 24, softLanding: false, loopBreaker: false }],
    ['a reserve', { maxTokens: 60, answerReserve: 30 }],
    ['few tokens', { maxTokens: 17 }],
    ['past the end', { ignoreEos: true, maxTokens: 300 }],
    ['penalties', { presencePenalty: 0.7, frequencyPenalty: 0.3, repetitionPenalty: 1.1 }],
    ['hot', { temperature: 2, topP: 1, topK: 0, maxTokens: 200 }],
    ['stop strings', { stop: ['result', ' is'] }],
    ['a bias', { logitBias: { 65: 3, 70: -5 }, minP: 0.02 }],
    ['tools', { tools }],
  ]
  test.each(cases)('%s', async (_name, options) => {
    // An engine of its own, which knows nothing of times yet: what it drafts later depends on them, but not that it does.
    const fresh = await Qwen3.load('nano')
    const ask = (seed: number, extra: ChatOptions) => fresh.chat(QUESTION, { ...options, seed, ...extra }).result()
    const seeds = [1, 2, 3, 4, 5, 6]
    const plain = await Promise.all(seeds.map((seed) => ask(seed, {})))
    const drafted = await Promise.all(
      seeds.map((seed) =>
        ask(seed, { speculation: { ...speculation, maxDraft: 1 + seed * 5, minNgram: 1 + (seed % 3) } }),
      ),
    )
    for (const [i, result] of drafted.entries()) expect(outcome(result)).toEqual(outcome(plain[i]!))
    for (const { usage } of plain) expect(usage).toMatchObject({ draftTokens: 0, acceptedTokens: 0 })
    for (const { usage } of drafted) {
      expect(usage.acceptedTokens).toBeLessThanOrEqual(usage.draftTokens)
      expect(usage.acceptedTokens).toBeLessThanOrEqual(usage.completionTokens)
    }
    expect(drafted.reduce((sum, { usage }) => sum + usage.draftTokens, 0)).toBeGreaterThan(0)
    await fresh.close()
  })

  test('a text that goes round takes a step less for every accepted token', async () => {
    const fresh = await Qwen3.load('nano')
    // A reward for what was said before: greedy decoding soon says one thing only.
    const prompt = 'red green blue red green blue'
    const options: GenerateOptions = { temperature: 0, frequencyPenalty: -2, maxTokens: 200, ignoreEos: true, seed: 1 }
    const steps = async (extra: GenerateOptions) => {
      const before = fresh.stats()
      const result = await fresh.generate(prompt, { ...options, ...extra }).result()
      const after = fresh.stats()
      return {
        result,
        steps: after.steps - before.steps,
        drafted: after.draftTokens - before.draftTokens,
        accepted: after.acceptedTokens - before.acceptedTokens,
      }
    }
    const plain = await steps({})
    const fast = await steps({ speculation })
    expect(outcome(fast.result)).toEqual(outcome(plain.result))
    expect(plain).toMatchObject({ drafted: 0, accepted: 0 })
    expect(plain.steps).toBe(200)
    const { draftTokens, acceptedTokens } = fast.result.usage
    expect(fast).toMatchObject({ drafted: draftTokens, accepted: acceptedTokens })
    expect(draftTokens).toBeGreaterThan(0)
    // Every step gives one token and those accepted; the last one may end with an accepted one. How many are drafted is a
    // matter of the steps' times, which engine_speculation_test sets.
    expect([200 - acceptedTokens, 201 - acceptedTokens]).toContain(fast.steps)
    await fresh.close()
  })

  test('thinking that is ended from outside: what was said until then is the beginning of the same text', async () => {
    const whole = await model.chat(QUESTION, { seed: 9 }).result()
    const stream = model.chat(QUESTION, { seed: 9, speculation })
    for await (const event of stream) if (event.type === 'thinking') stream.endThinking()
    const cut = await stream.result()
    if (cut.thinkingStop === 'natural') expect(cut.text).toBe(whole.text)
    else expect(cut.usage.forcedTokens).toBeGreaterThan(0)
    const said = cut.usage.thinkingTokens
    expect([...cut.ids.subarray(0, said)]).toEqual([...whole.ids.subarray(0, said)])
    expect(cut.text).not.toBe('')
  })
})

describe('the option', () => {
  const refused = (value: unknown, subject: string, text: RegExp) => {
    const given = { speculation: value } as GenerateOptions
    const wrong = expect.objectContaining({ name: 'Qwen3Error', code: 'INVALID_ARGUMENT', subject })
    for (const call of [() => model.chat(QUESTION, given), () => model.generate('x', given)]) {
      expect(call).toThrow(wrong)
      expect(call).toThrow(text)
    }
    return expect(Qwen3.load('nano', given as LoadOptions)).rejects.toThrow(wrong)
  }
  test.each([
    [true, 'speculation', /expected false or an object such as \{ type: 'prompt-lookup' \}, received true/],
    [null, 'speculation', /received null/],
    ['prompt-lookup', 'speculation', /expected false or an object/],
    [[], 'speculation', /expected false or an object/],
    [{}, 'speculation.type', /expected one of 'prompt-lookup', received undefined/],
    [{ type: 'draft-model' }, 'speculation.type', /received "draft-model"/],
    [{ ...speculation, maxDraft: 0 }, 'speculation.maxDraft', /expected a whole number from 1 to 64, received 0/],
    [{ ...speculation, maxDraft: 65 }, 'speculation.maxDraft', /received 65/],
    [{ ...speculation, maxDraft: Number.NaN }, 'speculation.maxDraft', /received NaN/],
    [{ ...speculation, minNgram: 0 }, 'speculation.minNgram', /from 1 to 16/],
    [{ ...speculation, maxNgram: 17 }, 'speculation.maxNgram', /from 1 to 16/],
    [{ ...speculation, maxNgram: '4' }, 'speculation.maxNgram', /from 1 to 16/],
    [{ ...speculation, minNgram: 5, maxNgram: 4 }, 'speculation.maxNgram', /from minNgram \(5\) to 16, received 4/],
    [{ ...speculation, maxNgrams: 4 }, 'maxNgrams', /has no option "maxNgrams". Did you mean maxNgram\?/],
  ])('refuses %j', async (value, subject, text) => {
    await refused(value, subject, text)
  })

  test('one of the two lengths is enough', async () => {
    const options = { seed: 1, maxTokens: 40 }
    const plain = await model.chat(QUESTION, options).result()
    for (const given of [{ minNgram: 6 }, { maxNgram: 1 }, { maxNgram: 16 }, { minNgram: 1 }, { maxDraft: 64 }]) {
      const result = await model.chat(QUESTION, { ...options, speculation: { ...speculation, ...given } }).result()
      expect(result.ids).toEqual(plain.ids)
    }
  })

  test('load() sets what requests do that do not say', async () => {
    const given: LoadOptions = { speculation: { ...speculation, minNgram: 1 } }
    const other = await Qwen3.load('nano', given)
    try {
      given.speculation = false // a later change of the object has no effect
      const options = { temperature: 0, maxTokens: 100, ignoreEos: true, seed: 1 }
      const prompt = 'one two three one two three one two'
      const usual = await other.generate(prompt, options).result()
      const off = await other.generate(prompt, { ...options, speculation: false }).result()
      expect(usual.usage.draftTokens).toBeGreaterThan(0)
      expect(off.usage.draftTokens).toBe(0)
      expect(usual.ids).toEqual(off.ids)
      expect((await other.logits([1, 2, 3])).length).toBe(other.info.vocabSize)
    } finally {
      await other.close()
    }
  })
})

describe('the command', () => {
  test('run --speculate: the same answer; --stats tells of the drafts', async () => {
    const args = ['run', '-q', '--json', '--stats', '--seed', '7']
    const plain = await qwen3([...args, QUESTION])
    const fast = await qwen3([...args, QUESTION, '--speculate'])
    const few = await qwen3([...args, '--speculate', '2', '--', QUESTION])
    for (const { code, stdout } of [fast, few]) {
      expect(code).toBe(0)
      expect(JSON.parse(stdout).ids).toEqual(JSON.parse(plain.stdout).ids)
    }
    expect(plain.stderr).not.toContain('drafts')
    expect(fast.stderr).toMatch(/drafts +[1-9]\d* tokens, \d+ accepted/)
    const wrong = await qwen3([...args, '--speculate', '100', '--', QUESTION])
    expect(wrong.code).not.toBe(0)
    expect(wrong.stderr).toContain('speculation.maxDraft')
  })

  test('bench --speculate counts accepted tokens', async () => {
    const args = ['bench', '--json', '--prompt', '64', '--generate', '96', '--runs', '1']
    const [plain, fast] = [await qwen3(args), await qwen3([...args, '--speculate'])]
    expect(JSON.parse(plain.stdout)).not.toHaveProperty('acceptedTokens')
    expect(JSON.parse(fast.stdout).acceptedTokens).toBeGreaterThanOrEqual(0)
  })
})

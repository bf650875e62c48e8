/**
 * What prompt-lookup speculation brings, and what it costs where it brings nothing: decoded tokens a second with and without
 * it, the same requests in turn, medians.
 *
 *     npm run bench:speculation [-- --models nano,random:qwen3-0.6b --weights bf16,int8 --rounds 5 --threads 2 --out file]
 *
 * Texts: `copy` repeats itself (greedy, with a reward for tokens that were said before); `chat` is nano's ordinary thinking and answer, sampled; `chance` is thirty words in
 * random order, in which matches are found and lead nowhere; `none` never repeats itself.
 * Every pair of runs must give the same ids. Writes bench/results/speculation.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { type ChatOptions, type ChatResult, type LoadOptions, Qwen3 } from '../lib'
import { environment } from './support/environment'
import { median, quantile } from './support/statistics'

const { values: flags } = parseArgs({
  options: {
    models: { type: 'string', default: 'nano,random:qwen3-0.6b' },
    weights: { type: 'string', default: 'bf16,int8' },
    rounds: { type: 'string', default: '5' },
    tokens: { type: 'string' },
    threads: { type: 'string' },
    out: { type: 'string', default: join(__dirname, 'results', 'speculation.json') },
  },
})

const speculation = { type: 'prompt-lookup' } as const
const QUESTIONS = [
  'Start with 47. Step 1: add 38. Step 2: double it. Step 3: minus 55. What is the result?',
  'What is 12 + 30 - 7 + 50 - 20 + 9?',
  'Mia has 20 apples. On Monday she buys 15 more. On Tuesday she gives away 8. How many apples does she have?',
]

type Weights = LoadOptions['weights'] & string

interface Text {
  name: string
  /** Runs one request and gives its result; `round` makes a prompt that no cache knows. */
  run(model: Qwen3, round: number, options: ChatOptions): Promise<ChatResult>
}

/** Ids of ordinary tokens, a different list for each seed. */
function ids(length: number, seed: number, limit: number): number[] {
  let state = (seed * 0x9e3779b9) >>> 0
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  })
}

function texts(name: string, tokens: number): Text[] {
  const nano = name.startsWith('nano')
  const fixed = { maxTokens: tokens, ignoreEos: true }
  const passage = (round: number) => ids(48, round + 1, nano ? 800 : 1024)
  const chance = (model: Qwen3) =>
    Object.fromEntries(ids(30, 5, Math.min(model.info.vocabSize, 1 << 17)).map((id) => [id, 100]))
  return [
    {
      name: 'copy',
      run: (model, round, options) => {
        const reward = { temperature: 0, frequencyPenalty: -2 }
        return model.generate(passage(round), { ...fixed, ...reward, ...options }).result()
      },
    },
    ...(nano
      ? [
          {
            name: 'chat',
            run: (model: Qwen3, round: number, options: ChatOptions) =>
              model.chat(QUESTIONS[round % QUESTIONS.length]!, { seed: round, ...options }).result(),
          },
        ]
      : []),
    {
      name: 'chance',
      run: (model, round, options) => {
        const sampling = { temperature: 10, topP: 1, topK: 0, seed: round, logitBias: chance(model) }
        return model.generate(passage(round), { ...fixed, ...sampling, ...options }).result()
      },
    },
    {
      name: 'none',
      run: (model, round, options) =>
        model
          .generate(passage(round), { ...fixed, temperature: 100, topP: 1, topK: 0, seed: round, ...options })
          .result(),
    },
  ]
}

interface Figures {
  model: string
  weights: Weights
  text: string
  tokensPerSecond: number
  withSpeculation: number
  /** Median of the pairs' ratios, and their quartiles: above 1 is faster. */
  ratio: number
  quartiles: [number, number]
  /** Of the drafted tokens. */
  accepted: number
  draftedPerToken: number
}

const rate = ({ usage }: ChatResult) => (1000 * (usage.completionTokens - 1)) / usage.timings.decodeMs

async function compare(model: Qwen3, weights: Weights, text: Text): Promise<Figures> {
  const plain: number[] = []
  const fast: number[] = []
  let drafted = 0
  let accepted = 0
  let tokens = 0
  // The small model's runs are short: more of them.
  const rounds = Number(flags.rounds) * (model.info.name.startsWith('nano') ? 3 : 1)
  // The first round warms up: memory, clocks, and the engine's notion of what rows cost.
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? [false, true] : [true, false]
    const pair = new Map<boolean, ChatResult>()
    for (const on of order) pair.set(on, await text.run(model, round, on ? { speculation } : { speculation: false }))
    const [off, on] = [pair.get(false)!, pair.get(true)!]
    if (off.ids.join() !== on.ids.join())
      throw new Error(`${text.name}, round ${round}: speculation changed the output`)
    if (round === 0) continue
    plain.push(rate(off))
    fast.push(rate(on))
    drafted += on.usage.draftTokens
    accepted += on.usage.acceptedTokens
    tokens += on.usage.completionTokens
  }
  const ratios = fast.map((value, i) => value / plain[i]!)
  const short = (value: number) => Number(value.toPrecision(4))
  return {
    model: model.info.name,
    weights,
    text: text.name,
    tokensPerSecond: short(median(plain)),
    withSpeculation: short(median(fast)),
    ratio: short(median(ratios)),
    quartiles: [short(quantile(ratios, 0.25)), short(quantile(ratios, 0.75))],
    accepted: short(drafted === 0 ? 0 : accepted / drafted),
    draftedPerToken: short(drafted / tokens),
  }
}

async function main(): Promise<void> {
  const results: Figures[] = []
  for (const name of flags.models.split(',')) {
    for (const weights of flags.weights.split(',') as Weights[]) {
      const threads = flags.threads === undefined ? {} : { threads: Number(flags.threads) }
      const model = await Qwen3.load(name, { device: 'cpu', weights, contextLength: 2048, ...threads })
      const tokens = Number(flags.tokens ?? (name.startsWith('nano') ? 1600 : 64))
      try {
        for (const text of texts(name, tokens)) {
          const figures = await compare(model, weights, text)
          results.push(figures)
          console.log(
            `${name} ${weights} ${text.name}`.padEnd(34) +
              `${figures.tokensPerSecond} -> ${figures.withSpeculation} tokens/s, x${figures.ratio} ` +
              `[${figures.quartiles.join(', ')}], ${(100 * figures.accepted).toFixed(0)} % accepted of ` +
              `${figures.draftedPerToken} drafted a token`,
          )
        }
      } finally {
        await model.close()
      }
    }
  }
  mkdirSync(dirname(flags.out), { recursive: true })
  const output = { ...environment(), loadAverage: loadavg()[0], rounds: Number(flags.rounds), results }
  writeFileSync(flags.out, `${JSON.stringify(output, null, 2)}\n`)
}

main()

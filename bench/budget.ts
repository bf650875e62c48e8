/**
 * `npm run bench:budget`: what thinking is worth, and what a budget costs: accuracy of the embedded models on held-out
 * problems against the thinking budget (Qwen3 Technical Report, arXiv 2505.09388, Figure 2, in miniature).
 *
 * Everything goes through the public API with the report's sampling. Three ways to end a thought are compared: the library's
 * default (soft landing and the wrap-up sentence), the wrap-up at exactly the budget's last token (as softLanding: false
 * does it), and a bare cut: `</think>` right after that token.
 *
 * Options: --quick (200 problems, one seed), --models a,b, --problems N, --seeds N, --curve-seeds N (fewer seeds for the points
 * between no thinking and unlimited), --out FOLDER (default: bench/results, and the README's table is written again)
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type ChatOptions, type ChatResult, Qwen3 } from '../lib/index'
import { type Chart, lineChart, type Series } from './support/chart'
import { environment, repository } from './support/environment'
import { isRight, type Problem } from './support/grade'
import { inParallel } from './support/pool'
import { accuracySection, updateReadme } from './support/readme'
import { quantile, type Share, share } from './support/statistics'

const budgets = [0, 16, 32, 64, 96, 128, 192, 256]
/** Requests in flight: enough to keep every slot of the engine busy. */
const concurrency = 64
/** The report's settings for thinking (section 4.7); the library's presets are the same, the bare cut has to repeat them. */
const thinkingSampling = { temperature: 0.6, topP: 0.95, topK: 20, minP: 0 }
/** The report's sentence (section 4.7), with the ending that the library gives it. */
const wrapUp =
  '\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n</think>\n\n'

const resultsFolder = join(repository, 'bench/results')

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    models: { type: 'string', default: 'nano,nano-moe' },
    problems: { type: 'string' },
    seeds: { type: 'string' },
    'curve-seeds': { type: 'string' },
    out: { type: 'string', default: resultsFolder },
  },
})

/** What is kept of one answer. */
interface Answer {
  right: boolean
  thinkingTokens: number
  stop: string | null
  ids: Int32Array
}

interface Curve extends Share {
  /** null = unlimited. */
  budget: number | null
  meanThinkingTokens: number
  /** Share of thoughts that the budget cut. */
  cut: number
}

async function main(): Promise<void> {
  const file = join(repository, 'train/heldout.jsonl')
  const all = readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Problem)
  const problems = all.slice(0, Number(flags.problems ?? (flags.quick ? 200 : all.length)))
  const seeds = Array.from({ length: Number(flags.seeds ?? (flags.quick ? 1 : 3)) }, (_, index) => index + 1)
  const models: Record<string, Awaited<ReturnType<typeof measure>>> = {}
  for (const name of flags.models.split(',')) models[name] = await measure(name, problems, seeds)
  const result = {
    ...environment(),
    problems: problems.length,
    seeds,
    sampling: 'presets of the two modes (technical report)',
    models,
  }
  mkdirSync(flags.out, { recursive: true })
  writeFileSync(join(flags.out, 'budget.json'), `${JSON.stringify(result, null, 2)}\n`)
  writeFileSync(join(flags.out, 'budget.svg'), lineChart(chartOf(result)))
  const complete = ['nano', 'nano-moe'].every((name) => models[name])
  if (flags.out === resultsFolder && complete)
    updateReadme(join(repository, 'README.md'), accuracySection(models, problems.length, seeds.length))
  console.log(`written: ${join(flags.out, 'budget.json')} and budget.svg`)
}

async function measure(name: string, problems: Problem[], seeds: number[]) {
  const start = performance.now()
  const model = await Qwen3.load(name, { maxSequences: concurrency })
  try {
    const runner = new Runner(model, problems, seeds)
    const free = await runner.chat({ thinking: true })
    const thinking = summary(null, free)
    log(name, 'thinking', thinking)
    const without = summary(0, await runner.chat({ thinking: false }))
    log(name, 'no thinking', without)
    const landed: Curve[] = [without]
    const exact: Curve[] = [without]
    const bare: Curve[] = [without]
    const curve = new Runner(model, problems, seeds.slice(0, Number(flags['curve-seeds'] ?? seeds.length)))
    for (const budget of budgets.slice(1)) {
      landed.push(summary(budget, await curve.chat({ thinkingBudget: budget }, free)))
      log(name, `budget ${budget}`, landed.at(-1)!)
      exact.push(summary(budget, await curve.cutAt(budget, wrapUp, free)))
      log(name, `budget ${budget}, exact`, exact.at(-1)!)
      bare.push(summary(budget, await curve.cutAt(budget, '</think>\n\n', free)))
      log(name, `budget ${budget}, bare cut`, bare.at(-1)!)
    }
    landed.push(thinking)
    exact.push(thinking)
    bare.push(thinking)
    const lengths = free.flat().map(({ thinkingTokens }) => thinkingTokens)
    return {
      thinking,
      withoutThinking: without,
      thinkingTokens: { median: quantile(lengths, 0.5), p95: quantile(lengths, 0.95), max: Math.max(...lengths) },
      bySteps: groups(problems, free, ({ steps }) => `${steps}`),
      byKind: groups(problems, free, ({ kind }) => kind),
      byLanguage: groups(problems, free, ({ lang }) => lang),
      budgets: { landed, exact, bare },
      seconds: Math.round((performance.now() - start) / 1000),
      curveSeeds: curve.seeds.length,
      generatedTokens: runner.generatedTokens + curve.generatedTokens,
    }
  } finally {
    await model.close()
  }
}

class Runner {
  generatedTokens = 0

  constructor(
    private readonly model: Qwen3,
    private readonly problems: Problem[],
    readonly seeds: number[],
  ) {}

  /**
   * One answer per problem and seed through chat(). Sampling depends on seed and position alone, so a thought that ended by
   * itself well within the budget is the same thought: `free`, the unlimited run, then stands for it.
   */
  chat(options: Pick<ChatOptions, 'thinking' | 'thinkingBudget'>, free?: Answer[][]): Promise<Answer[][]> {
    const budget = options.thinkingBudget
    return this.each(async (problem, seed, index, at) => {
      const known = free?.[index]?.[at]
      if (budget !== undefined && known?.stop === 'natural' && known.thinkingTokens < 0.85 * budget) return known
      return this.keep(problem, await this.model.chat(problem.question, { ...options, seed }).result())
    })
  }

  /**
   * The unlimited thoughts, cut after exactly `budget` tokens and closed with `closing`; the answer is generated from there.
   * With the wrap-up as closing this is what softLanding: false does, without sampling the same thought again.
   */
  cutAt(budget: number, closing: string, free: Answer[][]): Promise<Answer[][]> {
    const { tokenizer } = this.model
    const special = (text: string) => [...tokenizer.encode(text, { parseSpecial: true })]
    const open = special('<think>')[0]!
    const close = special('</think>')[0]!
    return this.each(async (problem, seed, index, at) => {
      const thought = free[index]![at]!
      const begin = thought.ids.indexOf(open) + 1
      const end = thought.ids.indexOf(close)
      if (end >= 0 && end - begin <= budget) return thought
      const prompt = special(this.model.renderChat(problem.question, { thinking: true }))
      const ids = Int32Array.from([...prompt, ...thought.ids.subarray(0, begin + budget), ...special(closing)])
      const result = await this.model.generate(ids, { ...thinkingSampling, seed, maxTokens: 64 }).result()
      this.generatedTokens += result.usage.completionTokens
      return { right: isRight(result.text, problem.answer), thinkingTokens: budget, stop: 'budget', ids: result.ids }
    })
  }

  private keep(problem: Problem, result: ChatResult): Answer {
    this.generatedTokens += result.usage.completionTokens
    const { text, thinkingStop, ids, usage } = result
    return { right: isRight(text, problem.answer), thinkingTokens: usage.thinkingTokens, stop: thinkingStop, ids }
  }

  private async each(
    work: (problem: Problem, seed: number, index: number, at: number) => Promise<Answer>,
  ): Promise<Answer[][]> {
    const { problems, seeds } = this
    const tasks = problems.flatMap((problem, index) =>
      seeds.map((seed, at) => ({ problem, index, seed: seed * 1_000_003 + index, at })),
    )
    const flat = await inParallel(tasks, 2 * concurrency, ({ problem, index, seed, at }) =>
      work(problem, seed, index, at),
    )
    return problems.map((_, index) => flat.slice(index * seeds.length, (index + 1) * seeds.length))
  }
}

const right = (answers: Answer[][]) => answers.map((list) => list.map((answer) => answer.right))

function summary(budget: number | null, answers: Answer[][]): Curve {
  const flat = answers.flat()
  return {
    budget,
    ...share(right(answers)),
    meanThinkingTokens: flat.reduce((sum, { thinkingTokens }) => sum + thinkingTokens, 0) / flat.length,
    cut: flat.filter(({ stop }) => stop === 'budget').length / flat.length,
  }
}

function groups(problems: Problem[], answers: Answer[][], key: (problem: Problem) => string) {
  const names = [...new Set(problems.map(key))].sort()
  return Object.fromEntries(
    names.map((name) => [name, share(right(answers.filter((_, index) => key(problems[index]!) === name)))]),
  )
}

function log(model: string, what: string, { accuracy, low, high, meanThinkingTokens }: Curve): void {
  const percent = (value: number) => `${(100 * value).toFixed(1)}%`
  console.log(
    `${model.padEnd(9)} ${what.padEnd(22)} ${percent(accuracy)}  [${percent(low)}, ${percent(high)}]  ${meanThinkingTokens.toFixed(0)} thinking tokens`,
  )
}

function chartOf({
  models,
  problems,
  seeds,
}: {
  models: Record<string, Awaited<ReturnType<typeof measure>>>
  problems: number
  seeds: number[]
}): Chart {
  const curveSeeds = Math.min(...Object.values(models).map((model) => model.curveSeeds))
  const unlimited = 2 * budgets.at(-1)!
  const points = (curve: Curve[]) =>
    curve.map(({ budget, accuracy, low, high }) => ({ x: budget ?? unlimited, y: accuracy, low, high }))
  const series = ({ landed, exact, bare }: Record<'landed' | 'exact' | 'bare', Curve[]>): Series[] => [
    { name: 'soft landing and wrap-up', colour: '#1f5fbf', points: points(landed) },
    { name: 'wrap-up without the landing', colour: '#6a8f3c', points: points(exact) },
    { name: 'bare cut', colour: '#c2541b', dashed: true, points: points(bare) },
  ]
  return {
    title: 'Accuracy against the thinking budget',
    subtitle: `${problems} held-out problems, 95% intervals; seeds: ${seeds.length} at 0 and none, ${curveSeeds} between`,
    xLabel: 'thinking budget in tokens',
    yLabel: 'right answers',
    ticks: [...budgets.map((x) => ({ x, label: String(x) })), { x: unlimited, label: 'none' }],
    panels: Object.entries(models).map(([name, model]) => ({
      title: name,
      series: series(model.budgets),
    })),
  }
}

void main()

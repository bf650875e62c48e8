/** `qwen3 demo`: one problem answered at several thinking budgets, side by side, live. */
import type { Command } from 'commander'
import { InvalidArgumentError } from 'commander'
import type { ChatResult, Qwen3 } from '../lib/index'
import { Columns, type Pane } from './common/columns'
import { exitCode } from './common/exit'
import { examples, integer } from './common/flags'
import { interruptible } from './common/interrupt'
import { loadModel } from './common/load'
import { styled } from './common/terminal'

/** A problem that needs its steps: guessed at once it is mostly wrong, worked out it is right. */
const problem = {
  question:
    'Anna has 31 apples. Day 1: she buys 47. Day 2: she gives away 19. Day 3: she finds 28. Day 4: she loses 36. Day 5: the number doubles. How many apples does Anna have now?',
  answer: '102',
}

interface DemoFlags {
  model: string
  budgets: number[]
  seed: number
  threads?: number
  json?: boolean
}

export function addDemo(program: Command): void {
  const command = program
    .command('demo')
    .summary('one problem at three thinking budgets, side by side')
    .description(
      'The model that ships with the package answers one problem three times at once: without thinking, with at most 64 tokens ' +
        'of thinking, and with at most 256. Thinking is dimmed; a cut thought is wrapped up and answered from what is there.',
    )
    .option('-m, --model <name>', 'nano, nano-moe, or the path of a model directory', 'nano')
    .option('--budgets <list>', 'thinking budgets, with commas', parseBudgets, [0, 64, 256])
    .option('--seed <n>', 'seed of the sampling', integer, 1)
    .option('--json', 'print one JSON object')
    .action((flags: DemoFlags) => interruptible((signal) => demo(flags, signal)))
  examples(command, [
    ['npx qwen3 demo', 'no download, no set-up'],
    ['qwen3 demo --budgets 0,16,32,128', 'other budgets'],
  ])
}

function parseBudgets(text: string): number[] {
  const budgets = text.split(',').map((part) => integer(part.trim()))
  if (budgets.some((budget) => budget < 0)) throw new InvalidArgumentError('expected budgets of at least 0.')
  return budgets
}

async function demo(flags: DemoFlags, signal: AbortSignal): Promise<void> {
  const start = performance.now()
  const model = await loadModel({ model: flags.model }, { signal, quiet: true })
  try {
    const out = process.stdout
    if (!flags.json) out.write(`${styled(out, 'bold', problem.question)}\n\n`)
    const live = out.isTTY && !flags.json
    const columns = new Columns(
      flags.budgets.map((budget) => (budget === 0 ? 'no thinking' : `budget ${budget}`)),
      live,
    )
    const answers = Promise.all(
      flags.budgets.map((budget, index) =>
        answer(model, budget, flags.seed, flags.json ? undefined : columns.panes[index], signal),
      ),
    )
    const results = await answers.finally(() => columns.close())
    const seconds = (performance.now() - start) / 1000
    if (flags.json)
      out.write(
        `${JSON.stringify({ ...problem, answers: results.map((result, i) => summary(flags.budgets[i]!, result)) })}\n`,
      )
    else report(flags, results, seconds)
    const best = results[flags.budgets.indexOf(Math.max(...flags.budgets))]!
    if (!isRight(best.text)) process.exitCode = exitCode.failure
  } finally {
    await model.close()
  }
}

async function answer(model: Qwen3, thinkingBudget: number, seed: number, pane: Pane | undefined, signal: AbortSignal) {
  const stream = model.chat(problem.question, { thinkingBudget, seed, signal })
  if (pane)
    for await (const event of stream)
      if (event.type === 'thinking' || event.type === 'text') pane.write(event.text, event.type === 'thinking')
  pane?.end()
  return await stream.result()
}

/** The last run of digits in the answer is what counts. */
const isRight = (text: string): boolean => text.match(/\d+/g)?.at(-1) === problem.answer

function summary(budget: number, { text, thinking, thinkingStop, usage }: ChatResult) {
  return { budget, right: isRight(text), text, thinking, thinkingStop, thinkingTokens: usage.thinkingTokens }
}

function report(flags: DemoFlags, results: ChatResult[], seconds: number): void {
  const out = process.stdout
  out.write('\n')
  results.forEach((result, index) => {
    const right = isRight(result.text)
    const mark = styled(out, right ? 'green' : 'red', right ? 'right' : `wrong (${problem.answer} is right)`)
    const stop = result.thinkingStop && result.thinkingStop !== 'natural' ? `, cut by the ${result.thinkingStop}` : ''
    const budget = `budget ${flags.budgets[index]}`.padEnd(11)
    out.write(`${budget} ${String(result.usage.thinkingTokens).padStart(4)} tokens of thinking${stop}: ${mark}\n`)
  })
  const tokens = results.reduce((sum, { usage }) => sum + usage.completionTokens, 0)
  out.write(
    `\n${tokens} tokens in ${seconds.toFixed(1)} s, model included. Next: qwen3 run 'What is 12+30-7?', qwen3 --help\n`,
  )
}

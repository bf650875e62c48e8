/** `qwen3 bench`: tokens per second of prefill and decode on this machine. */
import type { Command } from 'commander'
import type { Qwen3 } from '../lib/index'
import {
  addLoadFlags,
  defined,
  examples,
  integer,
  type LoadFlags,
  positiveInteger,
  speculateHelp,
  speculation,
} from './common/flags'
import { interruptible } from './common/interrupt'
import { loadModel } from './common/load'

interface BenchFlags extends LoadFlags {
  prompt: number
  generate: number
  sequences: number
  runs: number
  speculate?: number | true
  json?: boolean
}

export function addBench(program: Command): void {
  const command = program
    .command('bench')
    .summary('tokens per second of prefill and decode')
    .description(
      'Measures this machine: random prompts (so that no prefix is cached), then generation without an end token. One warm-up ' +
        'run is not counted; the median of the others is printed.',
    )
    .option('--prompt <tokens>', 'tokens of the prompt', positiveInteger, 512)
    .option('--generate <tokens>', 'tokens to generate', positiveInteger, 128)
    .option('--sequences <n>', 'requests at once', positiveInteger, 1)
    .option('--runs <n>', 'measured runs', positiveInteger, 3)
    .option('--speculate [n]', speculateHelp, integer)
    .option('--json', 'print one JSON object with every run')
    .action((flags: BenchFlags) => interruptible((signal) => bench(flags, signal)))
  addLoadFlags(command)
  examples(command, [
    ['qwen3 bench', 'the demo model'],
    ['qwen3 bench -m random:qwen3-0.6b', 'the speed of a real size, without downloading it'],
    ['qwen3 bench -m ./Qwen3-0.6B --sequences 8', 'eight conversations at once'],
  ])
}

interface Run {
  /** Decode steps' tokens that were drafted and accepted, with --speculate. */
  acceptedTokens: number
  /** Prompt tokens of all sequences / the longest time from the start of a prefill to its end. */
  prefillTokensPerSecond: number
  decodeTokensPerSecond: number
  firstTokenMs: number
}

async function bench(flags: BenchFlags, signal: AbortSignal): Promise<void> {
  const model = await loadModel(flags, { signal, quiet: true })
  try {
    const runs: Run[] = []
    for (let index = 0; index <= flags.runs; index++) {
      const run = await measure(model, flags, index, signal)
      if (index > 0) runs.push(run)
    }
    const median = (field: keyof Run) => runs.map((run) => run[field]).sort((a, b) => a - b)[runs.length >> 1]!
    const summary = {
      model: flags.model,
      promptTokens: flags.prompt,
      generatedTokens: flags.generate,
      sequences: flags.sequences,
      prefillTokensPerSecond: median('prefillTokensPerSecond'),
      decodeTokensPerSecond: median('decodeTokensPerSecond'),
      firstTokenMs: median('firstTokenMs'),
      ...(flags.speculate !== undefined && { acceptedTokens: median('acceptedTokens') }),
    }
    if (flags.json) process.stdout.write(`${JSON.stringify({ ...summary, runs })}\n`)
    else
      process.stdout.write(
        `${flags.model}: ${flags.sequences} x (${flags.prompt} prompt + ${flags.generate} generated tokens), median of ${flags.runs}\n` +
          `  prefill      ${summary.prefillTokensPerSecond.toFixed(1)} tokens/s\n` +
          `  decode       ${summary.decodeTokensPerSecond.toFixed(1)} tokens/s\n` +
          `  first token  ${summary.firstTokenMs.toFixed(1)} ms\n` +
          (summary.acceptedTokens === undefined ? '' : `  accepted     ${summary.acceptedTokens} drafted tokens\n`),
      )
  } finally {
    await model.close()
  }
}

async function measure(model: Qwen3, flags: BenchFlags, run: number, signal: AbortSignal): Promise<Run> {
  const requests = Array.from({ length: flags.sequences }, (_, sequence) => {
    const prompt = randomIds(flags.prompt, run * flags.sequences + sequence + 1, model.tokenizer.vocabSize)
    const options = { maxTokens: flags.generate, ignoreEos: true, temperature: 0, signal }
    return model.generate(prompt, { ...options, ...defined({ speculation: speculation(flags.speculate) }) }).result()
  })
  const results = await Promise.all(requests)
  const longest = (field: 'prefillMs' | 'decodeMs' | 'firstTokenMs') =>
    Math.max(...results.map(({ usage }) => usage.timings[field]))
  // The first generated token comes out of the prefill; the decode steps make the others.
  const decoded = results.reduce((sum, { usage }) => sum + usage.completionTokens - 1, 0)
  return {
    prefillTokensPerSecond: (1000 * flags.prompt * flags.sequences) / longest('prefillMs'),
    decodeTokensPerSecond: decoded > 0 ? (1000 * decoded) / longest('decodeMs') : 0,
    firstTokenMs: longest('firstTokenMs'),
    acceptedTokens: results.reduce((sum, { usage }) => sum + usage.acceptedTokens, 0),
  }
}

/** Ids below 256 x 4: ordinary tokens of every vocabulary. A different list for each seed. */
function randomIds(length: number, seed: number, vocab: number): Int32Array {
  let state = (seed * 0x9e3779b9) >>> 0
  const limit = Math.min(1024, vocab)
  return Int32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  })
}

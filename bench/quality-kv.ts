/**
 * `npx tsx bench/quality-kv.ts [texts]`: what a format of the KV cache costs. Kullback-Leibler divergence of the next-token
 * distribution from that with an f32 cache, weights in f32, on the model's own worked solutions of held-out problems.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type LoadOptions, Qwen3 } from '../lib/index'
import { divergences, summary } from './quality/divergence'
import { concurrency, directoryOf, type Rows, rowsOf, type Text } from './quality/models'
import { repository } from './support/environment'
import type { Problem } from './support/grade'
import { inParallel } from './support/pool'

async function withCache<T>(
  name: string,
  kvCache: LoadOptions['kvCache'],
  work: (model: Qwen3) => Promise<T>,
): Promise<T> {
  const options = { weights: 'f32', contextLength: 1024, maxSequences: concurrency, kvCache } as const
  const model = await Qwen3.load(directoryOf(name), options)
  try {
    return await work(model)
  } finally {
    await model.close()
  }
}

/** Of every second text, as in bench/quality.ts: past it the model is less sure of itself. */
const CUT_AT = 96

function solutions(model: Qwen3, count: number): Promise<Text[]> {
  const lines = readFileSync(join(repository, 'train/heldout.jsonl'), 'utf8').trim().split('\n').slice(0, count)
  return inParallel(lines, concurrency, async (line, seed) => {
    const { question } = JSON.parse(line) as Problem
    const cut = seed % 2 === 1 ? { thinkingBudget: CUT_AT } : {}
    const { ids } = await model.chat(question, { seed, ...cut }).result()
    const before = model.tokenizer.encode(model.renderChat(question), { parseSpecial: true })
    return { ids: Int32Array.from([...before, ...ids]), begin: before.length - 1 }
  })
}

async function main(): Promise<void> {
  const count = Number(process.argv[2] ?? 64)
  for (const name of ['nano', 'nano-moe']) {
    let texts: Text[] = []
    const expected = await withCache(name, 'f32', async (model): Promise<Rows> => {
      texts = await solutions(model, count)
      return rowsOf(model, texts)
    })
    for (const kvCache of ['bf16', 'int8'] as const) {
      const { positions, kl, klP99, top1 } = summary(
        divergences(expected, await withCache(name, kvCache, (model) => rowsOf(model, texts))),
      )
      console.log(
        `${name}, ${kvCache}: ${positions} positions, KL ${kl.toExponential(1)}, 99% below ${klP99.toExponential(1)}, same top token ${(100 * top1).toFixed(2)}%`,
      )
    }
  }
}

void main()

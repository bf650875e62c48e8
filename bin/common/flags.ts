/** Flags that several subcommands share, and their translation into the options of the API. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { ChatOptions, LoadOptions, WeightFormat } from '../../lib/index'

/** Parses a number; its range is the library's business, which says expected and received. */
export function number(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('expected a number.')
  return value
}

export function integer(text: string): number {
  const value = number(text)
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('expected a whole number.')
  return value
}

export function positiveInteger(text: string): number {
  const value = integer(text)
  if (value < 1) throw new InvalidArgumentError('expected a whole number of at least 1.')
  return value
}

/** `512M`, `2GiB`, `1000000`: units are powers of 1,024. */
export function byteCount(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT])?(?:iB|B)?$/i.exec(text.trim())
  if (!match) throw new InvalidArgumentError('expected a size such as 512M or 2G.')
  const power = match[2] ? 'KMGT'.indexOf(match[2].toUpperCase()) + 1 : 0
  return Math.floor(Number(match[1]) * 1024 ** power)
}

const collect = (value: string, previous: string[] = []) => [...previous, value]

export interface LoadFlags {
  model: string
  device?: string
  isa?: string
  weights?: 'auto' | WeightFormat
  embeddingWeights?: 'auto' | WeightFormat
  headWeights?: 'auto' | WeightFormat
  weightCache?: boolean | string
  kvCache?: LoadOptions['kvCache']
  context?: number
  threads?: number
  kvCacheBytes?: number
  rope?: 'auto' | 'static' | 'none'
  yarnFactor?: number
}

const formats = ['auto', 'f32', 'bf16', 'int8', 'int4', 'int4-offset']

/** In which formats the weights are kept. */
export function addWeightFlags(command: Command): Command {
  return command
    .addOption(
      new Option('--weights <format>', 'format in memory; default: bf16. int8 and int4 are faster').choices(formats),
    )
    .addOption(new Option('--embedding-weights <format>', 'of the embedding; default: as --weights').choices(formats))
    .addOption(new Option('--head-weights <format>', 'of the output head; default: as --weights').choices(formats))
}

/** In which format keys and values are kept. */
export const kvCacheFlag = (): Option =>
  new Option('--kv-cache <format>', 'format of the KV cache; int8 takes half the memory of bf16').choices([
    'auto',
    'f32',
    'bf16',
    'int8',
  ])

/** --model and how to load it. */
export function addLoadFlags(command: Command): Command {
  command
    .optionsGroup('Model:')
    .option('-m, --model <name>', 'nano, nano-moe, random:<row>, or the path of a model directory', 'nano')
    .option('--context <tokens>', 'tokens per conversation; default: what fits', positiveInteger)
    .option('--threads <n>', 'worker threads; default: physical cores', positiveInteger)
    .option('--device <name>', 'auto, cpu, cuda or cuda:<n>')
    .option('--isa <level>', 'instruction set of the CPU kernels; default: the best (qwen3 doctor lists them)')
  return addWeightFlags(command)
    .option('--weight-cache [folder]', 'keep packed weights in a file, so that the next load takes no time')
    .addOption(kvCacheFlag())
    .option('--kv-cache-bytes <size>', 'size of the KV cache, such as 2G', byteCount)
    .addOption(
      new Option('--rope <mode>', 'long contexts: YaRN per sequence, always, or never').choices([
        'auto',
        'static',
        'none',
      ]),
    )
    .option('--yarn-factor <x>', 'context extension factor', number)
}

export function loadOptions(flags: LoadFlags): LoadOptions {
  return defined({
    device: flags.device,
    isa: flags.isa,
    weights: flags.weights,
    embeddingWeights: flags.embeddingWeights,
    headWeights: flags.headWeights,
    weightCache: flags.weightCache,
    kvCache: flags.kvCache,
    contextLength: flags.context,
    threads: flags.threads,
    kvCacheBytes: flags.kvCacheBytes,
    rope: flags.rope,
    yarnFactor: flags.yarnFactor,
  })
}

export const speculateHelp =
  'draft up to n tokens a step (default 16) from the text so far: the same answer, sooner where it repeats itself'

/** The API's option for --speculate. */
export function speculation(flag: number | true | undefined): ChatOptions['speculation'] {
  if (flag === undefined) return undefined
  return { type: 'prompt-lookup', ...(flag !== true && { maxDraft: flag }) }
}

export interface AnswerFlags {
  think?: boolean
  budget?: number
  deadline?: number
  reserve?: number
  maxTokens?: number
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  presencePenalty?: number
  frequencyPenalty?: number
  repetitionPenalty?: number
  seed?: number
  stop?: string[]
  ignoreEos?: boolean
  speculate?: number | true
}

/** How long to think and how to sample. Without a flag the model's own settings count, then Qwen3's advice for the mode. */
export function addAnswerFlags(command: Command): Command {
  return command
    .optionsGroup('Thinking:')
    .option('--think', 'think before answering (the default where the model can)')
    .option('--no-think', 'answer at once')
    .option('--budget <tokens>', 'most tokens of thinking; 0 = none', integer)
    .option('--deadline <ms>', 'most milliseconds of thinking', number)
    .option('--reserve <tokens>', 'tokens kept for the answer', integer)
    .optionsGroup('Sampling:')
    .option('--max-tokens <n>', 'most generated tokens; default: the remaining context', integer)
    .option('--temperature <x>', '0 = greedy (advised against when thinking)', number)
    .option('--top-p <x>', 'keep the likeliest tokens up to this mass', number)
    .option('--top-k <n>', 'keep the n likeliest tokens; 0 = all', integer)
    .option('--min-p <x>', 'drop tokens below this share of the likeliest', number)
    .option('--presence-penalty <x>', 'against tokens generated before', number)
    .option('--frequency-penalty <x>', 'the same, per occurrence', number)
    .option('--repetition-penalty <x>', 'divides the logits of tokens seen before; 1 = off', number)
    .option('--seed <n>', 'same seed, same answer; default: random, printed by --stats', integer)
    .option('--stop <text>', 'end the answer before this text (may be repeated)', collect)
    .option('--ignore-eos', 'go on after an end token, up to --max-tokens')
    .option('--speculate [n]', speculateHelp, integer)
}

export function answerOptions(flags: AnswerFlags): ChatOptions {
  return defined({
    thinking: flags.think,
    thinkingBudget: flags.budget,
    thinkingDeadlineMs: flags.deadline,
    answerReserve: flags.reserve,
    maxTokens: flags.maxTokens,
    temperature: flags.temperature,
    topP: flags.topP,
    topK: flags.topK,
    minP: flags.minP,
    presencePenalty: flags.presencePenalty,
    frequencyPenalty: flags.frequencyPenalty,
    repetitionPenalty: flags.repetitionPenalty,
    seed: flags.seed,
    stop: flags.stop,
    ignoreEos: flags.ignoreEos,
    speculation: speculation(flags.speculate),
  })
}

/** The entries that were given: an absent flag must leave the default to the library. */
export function defined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>
}

/** Help that teaches: examples below the list of options. */
export function examples(command: Command, pairs: [line: string, meaning: string][]): Command {
  const width = Math.max(...pairs.map(([line]) => line.length))
  const lines = pairs.map(([line, meaning]) => `  ${line.padEnd(width)}  ${meaning}`)
  return command.addHelpText('after', `\nExamples:\n${lines.join('\n')}`)
}

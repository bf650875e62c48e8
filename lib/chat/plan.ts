import { randomInt } from 'node:crypto'
import { Qwen3Error, received } from '../errors'
import type { NativeRequest, NativeSegmentPlan, NativeSpeculation } from '../native'
import type { ChatOptions, GenerateOptions, PromptLookupOptions } from '../types'
import type { GenerationConfig } from '../weights'
import { invalid } from './plain'
import { decideSampling } from './presets'
import type { ChatTokenizer, ControlIds } from './tokens'

/** A request that is decided but for its prompt, and what reading its output needs. */
export interface RequestPlan {
  /** maxTokens -1 = the remaining context; answerReserve -1 = the engine's choice. */
  native: Omit<NativeRequest, 'prompt' | 'cacheNamespace' | 'mode'>
  /** Whether this request can think. */
  thinking: boolean
  /** generate(): text as it comes, no trimming, no tools. */
  raw: boolean
  seed: number
  stop: string[]
  /** Whether log-probabilities were asked for. */
  logprobs: boolean
  /** Hints for the user that are no errors, such as greedy decoding while thinking. */
  warnings: string[]
}

/** The report's sentence that ends thinking at the budget (Qwen3 Technical Report, section 4.3), without its stray full stop. */
export const WRAP_UP =
  '\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n'

/** Seeds are whole numbers that a JavaScript number holds exactly. */
const MAX_SEED = 2 ** 48 - 1

export interface PlanContext {
  tokenizer: ChatTokenizer
  ids: ControlIds
  generationConfig: GenerationConfig
}

/** The plan of a chat request. `thinking`: the prompt lets the model think; `startsInThink`: it ends in an open block. */
export function planChat(
  context: PlanContext,
  options: ChatOptions,
  mode: { thinking: boolean; startsInThink: boolean; hybrid: boolean; tools: boolean },
): RequestPlan {
  const { ids } = context
  const segments: NativeSegmentPlan = {
    canThink: mode.thinking,
    startsInThink: mode.thinking && mode.startsInThink,
    thinkOpen: ids.thinkOpen,
    thinkClose: ids.thinkClose,
    toolOpen: mode.tools ? ids.toolOpen : -1,
    toolClose: mode.tools ? ids.toolClose : -1,
    wrapUp: mode.thinking ? wrapUpIds(context.tokenizer, ids) : new Int32Array(0),
    budget: options.thinkingBudget === undefined || options.thinkingBudget === Infinity ? -1 : options.thinkingBudget,
    deadlineMs:
      options.thinkingDeadlineMs === undefined || options.thinkingDeadlineMs === Infinity
        ? -1
        : options.thinkingDeadlineMs,
    answerReserve: options.answerReserve ?? -1,
    loopBreaker: options.loopBreaker ?? true,
    softLanding: options.softLanding ?? true,
  }
  const sampling = decideSampling(options, context.generationConfig, {
    thinking: mode.thinking,
    fileApplies: !mode.hybrid,
  })
  const plan = assemble(context, options, sampling, segments, mode.thinking)
  if (mode.thinking && sampling.temperature === 0) {
    plan.warnings.push(
      'temperature 0 while thinking tends to end in endless repetition; Qwen recommends 0.6 with topP 0.95 and topK 20.',
    )
  }
  return plan
}

/** The plan of a generate() request: no template, every token is answer text. */
export function planGenerate(context: PlanContext, options: GenerateOptions): RequestPlan {
  const segments: NativeSegmentPlan = {
    canThink: false,
    startsInThink: false,
    thinkOpen: -1,
    thinkClose: -1,
    toolOpen: -1,
    toolClose: -1,
    wrapUp: new Int32Array(0),
    budget: -1,
    deadlineMs: -1,
    answerReserve: 0,
    loopBreaker: false,
    softLanding: false,
  }
  const sampling = decideSampling(options, context.generationConfig, { thinking: false, fileApplies: true })
  return { ...assemble(context, options, sampling, segments, false), raw: true }
}

/** The sentence, `</think>` and the blank line after it, as ids. */
export function wrapUpIds(tokenizer: ChatTokenizer, ids: ControlIds): Int32Array {
  return Int32Array.from([...tokenizer.encode(WRAP_UP), ids.thinkClose, ...tokenizer.encode('\n\n')])
}

function assemble(
  context: PlanContext,
  options: GenerateOptions,
  sampling: ReturnType<typeof decideSampling>,
  segments: NativeSegmentPlan,
  thinking: boolean,
): RequestPlan {
  const seed = options.seed ?? randomInt(MAX_SEED)
  const stop = options.stop === undefined ? [] : typeof options.stop === 'string' ? [options.stop] : [...options.stop]
  const bias = logitBias(options.logitBias, context.tokenizer)
  const { logprobs } = options
  return {
    native: {
      ...sampling,
      seed: BigInt(seed),
      choice: 0,
      logitBiasIds: Int32Array.from(bias.keys()),
      logitBiasValues: Float32Array.from(bias.values()),
      topLogprobs: logprobs === undefined || logprobs === false ? -1 : logprobs === true ? 0 : logprobs,
      segments,
      ...(options.speculation && { speculation: promptLookup(options.speculation) }),
      maxTokens: options.maxTokens ?? -1,
      eos: Int32Array.from(eosIds(context)),
      ignoreEos: options.ignoreEos ?? false,
      stop: stop.map((text) => new TextEncoder().encode(text)),
    },
    thinking,
    raw: false,
    seed,
    stop,
    logprobs: logprobs !== undefined && logprobs !== false,
    warnings: [],
  }
}

/** Where only one of the two lengths is given, the other's default gives way. */
function promptLookup({ maxDraft, minNgram, maxNgram }: PromptLookupOptions): NativeSpeculation {
  const fewest = minNgram ?? Math.min(2, maxNgram ?? 2)
  return { maxDraft: maxDraft ?? 16, minNgram: fewest, maxNgram: maxNgram ?? Math.max(4, fewest) }
}

/** The files' ids, or those of the family's two end tokens where the files name none. */
function eosIds({ generationConfig, ids }: PlanContext): number[] {
  const named = generationConfig.eosTokenIds
  return named.length > 0 ? named : [ids.imEnd, ids.endOfText].filter((id) => id >= 0)
}

/** Keys are token ids, or texts that are exactly one token. */
function logitBias(given: Record<string, number> | undefined, tokenizer: ChatTokenizer): Map<number, number> {
  const bias = new Map<number, number>()
  if (given === undefined || given === null) return bias
  const added = new Map(tokenizer.addedTokens().map(({ content, id }) => [content, id]))
  for (const [key, value] of Object.entries(given)) {
    if (typeof value !== 'number' || Number.isNaN(value))
      throw invalid(`logitBias[${key.slice(0, 60)}]`, 'a number', received(value))
    let id = /^\d+$/.test(key) ? Number(key) : added.get(key)
    if (id === undefined) {
      const encoded = tokenizer.encode(key)
      if (encoded.length !== 1) {
        throw new Qwen3Error(
          'INVALID_ARGUMENT',
          `logitBias: ${received(key)} is ${encoded.length} tokens; expected a token id or the text of one token.`,
          { subject: 'logitBias' },
        )
      }
      id = encoded[0]!
    }
    bias.set(id, value)
  }
  return bias
}

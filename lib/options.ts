/** Validation of options: wrong types, ranges and names are refused with what was expected and what was received. */
import { Qwen3Error, received } from './errors'
import type { ChatOptions, GenerateOptions, LoadOptions, PromptLookupOptions } from './types'
import { nearNames } from './weights'

type Rules = Record<string, Rule>

interface Rule {
  expected: string
  accepts(value: unknown): boolean
  /** Further checks of a value that is accepted; throws. */
  refine?(value: unknown): void
}

const isNumber = (value: unknown): value is number => typeof value === 'number'

const wholeNumber = (least: number, most: number = Number.MAX_SAFE_INTEGER): Rule => ({
  expected:
    most === Number.MAX_SAFE_INTEGER ? `a whole number from ${least}` : `a whole number from ${least} to ${most}`,
  accepts: (value) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most,
})

/** Finite, in [least, most]; `open`: least itself is excluded. NaN compares false. */
const number = (least: number, most: number, open = false): Rule => ({
  expected: open ? `a number above ${least}, at most ${most}` : `a number from ${least} to ${most}`,
  accepts: (value) => isNumber(value) && (open ? value > least : value >= least) && value <= most,
})

const oneOf = (...values: string[]): Rule => ({
  expected: `one of ${values.map((value) => `'${value}'`).join(', ')}`,
  accepts: (value) => values.includes(value as string),
})

const boolean: Rule = { expected: 'true or false', accepts: (value) => typeof value === 'boolean' }

const text: Rule = {
  expected: 'a string that is not empty',
  accepts: (value) => typeof value === 'string' && value !== '',
}

const callback: Rule = { expected: 'a function', accepts: (value) => typeof value === 'function' }

/** Signals of another realm count too, hence no instanceof. */
const abortSignal: Rule = {
  expected: 'an AbortSignal',
  accepts: (value) =>
    typeof value === 'object' &&
    value !== null &&
    typeof (value as AbortSignal).aborted === 'boolean' &&
    typeof (value as AbortSignal).addEventListener === 'function',
}

/** `true`, `false`, or a folder. */
const folder: Rule = {
  expected: 'true, false or the path of a folder',
  accepts: (value) =>
    typeof value === 'boolean' || (typeof value === 'string' && value !== '' && !value.includes('\0')),
}

const weightFormat = oneOf('auto', 'f32', 'bf16', 'int8', 'int4', 'int4-offset')

const array: Rule = { expected: 'an array', accepts: Array.isArray }

/** Most stop strings and most characters of one: both are matched against every byte that is generated. */
const MAX_STOPS = 64
const MAX_STOP_LENGTH = 1024
const MAX_LOGPROBS = 20
const MAX_TOKENS = 2 ** 31 - 1

const stop: Rule = {
  expected: `a string or up to ${MAX_STOPS} strings of 1 to ${MAX_STOP_LENGTH} characters`,
  accepts: (value) => {
    const list = Array.isArray(value) ? value : [value]
    const usable = (item: unknown) => typeof item === 'string' && item !== '' && item.length <= MAX_STOP_LENGTH
    return list.length <= MAX_STOPS && list.every(usable)
  },
}

const logprobs: Rule = {
  expected: `true, false or a whole number from 0 to ${MAX_LOGPROBS}`,
  accepts: (value) => typeof value === 'boolean' || wholeNumber(0, MAX_LOGPROBS).accepts(value),
}

const speculation: Rule = {
  expected: "false or an object such as { type: 'prompt-lookup' }",
  accepts: (value) => value === false || (typeof value === 'object' && value !== null && !Array.isArray(value)),
  refine: (value) => {
    if (value !== false) checkPromptLookup(value as PromptLookupOptions)
  },
}

const promptLookupRules: Record<keyof PromptLookupOptions, Rule> = {
  type: oneOf('prompt-lookup'),
  maxDraft: wholeNumber(1, 64),
  minNgram: wholeNumber(1, 16),
  maxNgram: wholeNumber(1, 16),
}

function checkPromptLookup(options: PromptLookupOptions): void {
  expect('speculation.type', options.type, promptLookupRules.type)
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(promptLookupRules, name) && promptLookupRules[name as keyof PromptLookupOptions]
    if (!rule) unknownOption('speculation', name, promptLookupRules)
    if (value !== undefined) expect(`speculation.${name}`, value, rule)
  }
  const { minNgram, maxNgram } = options
  if (minNgram !== undefined && maxNgram !== undefined && maxNgram < minNgram) {
    fail('speculation.maxNgram', `a whole number from minNgram (${minNgram}) to 16`, maxNgram)
  }
}

/** Size of the table, of each id and of each value. */
const logitBias = (vocab: number): Rule => ({
  expected: `an object of token ids from 0 to ${vocab - 1} and numbers from -100 to 100 (or -Infinity)`,
  accepts: (value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
    return Object.entries(value).every(
      ([id, bias]) =>
        /^(0|[1-9]\d{0,9})$/.test(id) &&
        Number(id) < vocab &&
        isNumber(bias) &&
        (bias === Number.NEGATIVE_INFINITY || (bias >= -100 && bias <= 100)),
    )
  },
})

const loadRules: Record<keyof LoadOptions, Rule> = {
  device: text,
  isa: text,
  batchInvariance: oneOf('batch', 'full'),
  weights: weightFormat,
  embeddingWeights: weightFormat,
  headWeights: weightFormat,
  weightCache: folder,
  kvCache: oneOf('auto', 'f32', 'bf16', 'int8'),
  contextLength: wholeNumber(1, MAX_TOKENS),
  threads: wholeNumber(1, 1024),
  kvCacheBytes: wholeNumber(1),
  maxSequences: wholeNumber(1, 4096),
  maxWaiting: wholeNumber(0, MAX_TOKENS),
  rope: oneOf('auto', 'static', 'none'),
  yarnFactor: number(1, 1024),
  speculation,
  randomSeed: wholeNumber(0),
  onProgress: callback,
  signal: abortSignal,
}

const generateRules = (vocab: number): Record<keyof GenerateOptions, Rule> => ({
  maxTokens: wholeNumber(1, MAX_TOKENS),
  temperature: number(0, 100),
  topP: number(0, 1, true),
  topK: wholeNumber(0, MAX_TOKENS),
  minP: number(0, 1),
  presencePenalty: number(-2, 2),
  frequencyPenalty: number(-2, 2),
  repetitionPenalty: number(0, 10, true),
  logitBias: logitBias(vocab),
  seed: wholeNumber(0),
  stop,
  logprobs,
  ignoreEos: boolean,
  speculation,
  signal: abortSignal,
})

const chatRules = (vocab: number): Record<keyof ChatOptions, Rule> => ({
  ...generateRules(vocab),
  thinking: boolean,
  thinkingBudget: wholeNumber(0, MAX_TOKENS),
  thinkingDeadlineMs: number(0, Number.MAX_SAFE_INTEGER),
  answerReserve: wholeNumber(0, MAX_TOKENS),
  loopBreaker: boolean,
  softLanding: boolean,
  tools: array,
})

/** Throws for anything that is no option or no value of it. undefined stands for the default. */
export function checkLoadOptions(options: LoadOptions): void {
  check('load', options, loadRules)
}

/** As above; `vocab` bounds the ids of `logitBias`. */
export function checkGenerateOptions(options: GenerateOptions, vocab: number): void {
  check('generate', options, generateRules(vocab))
}

/** As above. */
export function checkChatOptions(options: ChatOptions, vocab: number): void {
  check('chat', options, chatRules(vocab))
}

/** Options of calls that can only be cancelled. */
export function checkSignalOptions(call: string, options: { signal?: AbortSignal }): void {
  check(call, options, { signal: abortSignal })
}

/** A new budget while a stream runs; Infinity lifts the limit. */
export function checkThinkingBudget(tokens: number): void {
  if (tokens !== Number.POSITIVE_INFINITY) {
    expect('tokens', tokens, wholeNumber(0, MAX_TOKENS))
  }
}

/** Token ids given by the caller, copied: later changes of the array have no effect. */
export function checkIds(ids: ArrayLike<number>, vocab: number): Int32Array {
  const isList = Array.isArray(ids) || (ArrayBuffer.isView(ids) && !(ids instanceof DataView))
  if (!isList) fail('ids', 'an array of token ids', ids)
  if (ids.length === 0) fail('ids', 'at least one token id', ids)
  const copy = new Int32Array(ids.length)
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!
    if (!Number.isInteger(id) || id < 0 || id >= vocab) fail(`ids[${i}]`, `a token id from 0 to ${vocab - 1}`, id)
    copy[i] = id
  }
  return copy
}

function check(call: string, options: object, rules: Rules): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) fail('options', 'an object', options)
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (!rule) unknownOption(`${call}()`, name, rules)
    if (value !== undefined) expect(name, value, rule)
  }
}

function unknownOption(where: string, name: string, rules: Rules): never {
  const near = nearNames(name, Object.keys(rules))[0]
  const hint = near ? ` Did you mean ${near}?` : ''
  throw new Qwen3Error('INVALID_ARGUMENT', `${where} has no option ${received(name)}.${hint}`, {
    subject: name.slice(0, 60),
  })
}

function expect(name: string, value: unknown, rule: Rule): void {
  if (!rule.accepts(value)) fail(name, rule.expected, value)
  rule.refine?.(value)
}

function fail(name: string, expected: string, value: unknown): never {
  throw new Qwen3Error('INVALID_ARGUMENT', `${name}: expected ${expected}, received ${received(value)}.`, {
    subject: name,
  })
}

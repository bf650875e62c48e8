import { Qwen3Error } from '../errors'
import { readTokenIds } from './config'
import { Fields } from './fields'
import type { ModelDirectory } from './files'
import { type Json, parseJsonObject } from './json'

/** The sampling defaults of generation_config.json; only what the file says. */
export interface GenerationConfig {
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  repetitionPenalty?: number
  presencePenalty?: number
  maxNewTokens?: number
  /** Ids that end a generation: this file's, or else config.json's. */
  eosTokenIds: number[]
}

/** The parts of tokenizer_config.json and chat_template.jinja that the chat needs. */
export interface TemplateFiles {
  /** Jinja source; undefined when the model has none (base models). */
  chatTemplate?: string
  /** bos_token, eos_token, pad_token, unk_token: the variables that a template may print. */
  templateVariables: Record<string, string>
}

const MAX_CONFIG = 1 << 20
const MAX_TOKENIZER_CONFIG = 16 << 20
/** The largest published templates have about 20 KiB. */
export const MAX_TEMPLATE = 128 << 10

/** Reads generation_config.json; absent = only the ids that config.json names. Beam search and the like are refused. */
export async function readGenerationConfig(directory: ModelDirectory, configEos: number[]): Promise<GenerationConfig> {
  const file = await directory.readText('generation_config.json', MAX_CONFIG)
  if (file === undefined) return { eosTokenIds: configEos }
  const fields = new Fields(await parseJsonObject(file.text, file.stamp.path), file.stamp.path)
  if (fields.integer('num_beams', 1, 1_000_000, 1) > 1)
    throw fields.unsupported('num_beams', 'beam search is not supported.')
  const eos = readTokenIds(fields, 'eos_token_id')
  const config: GenerationConfig = { eosTokenIds: eos.length > 0 ? eos : configEos }
  const put = (
    key: Exclude<keyof GenerationConfig, 'eosTokenIds'>,
    name: string,
    low: number,
    high: number,
    whole = false,
    closed = true,
  ) => {
    if (fields.get(name) === undefined) return
    config[key] = whole ? fields.integer(name, low, high) : fields.number(name, low, high, undefined, closed)
  }
  put('temperature', 'temperature', 0, 100)
  put('topP', 'top_p', 0, 1, false, false)
  put('topK', 'top_k', 0, 1 << 24, true)
  put('minP', 'min_p', 0, 1)
  put('repetitionPenalty', 'repetition_penalty', 0, 100, false, false)
  put('presencePenalty', 'presence_penalty', -100, 100)
  put('maxNewTokens', 'max_new_tokens', 1, 2 ** 31 - 1, true)
  // do_sample: false asks for the most probable token, whatever temperature says.
  if (!fields.boolean('do_sample', true)) config.temperature = 0
  return config
}

/** A template file goes before the one inside tokenizer_config.json, as in other readers. */
export async function readTemplateFiles(directory: ModelDirectory): Promise<TemplateFiles> {
  const files: TemplateFiles = { templateVariables: {} }
  const config = await directory.readText('tokenizer_config.json', MAX_TOKENIZER_CONFIG)
  if (config !== undefined) {
    const { path } = config.stamp
    const json = await parseJsonObject(config.text, path)
    for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token']) {
      const text = tokenText(json[name])
      if (text !== undefined) files.templateVariables[name] = text
    }
    const template = pickTemplate(json.chat_template, path)
    if (template !== undefined) files.chatTemplate = template
  }
  const jinja = await directory.readText('chat_template.jinja', MAX_TEMPLATE)
  if (jinja !== undefined) files.chatTemplate = jinja.text
  else if (files.chatTemplate === undefined) {
    const file = await directory.readText('chat_template.json', 4 * MAX_TEMPLATE)
    if (file !== undefined) {
      const template = pickTemplate((await parseJsonObject(file.text, file.stamp.path)).chat_template, file.stamp.path)
      if (template !== undefined) files.chatTemplate = template
    }
  }
  return files
}

/** A token is written as text or as an object with `content`. */
function tokenText(value: Json | undefined): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && typeof value.content === 'string')
    return value.content
  return undefined
}

/** One template, or a list of named ones, of which `default` is the chat's. */
function pickTemplate(value: Json | undefined, path: string): string | undefined {
  if (value === undefined || value === null) return undefined
  const fail = (problem: string) =>
    new Qwen3Error('BAD_MODEL_FILE', `${path}: chat_template: ${problem}.`, { subject: 'chat_template' })
  let template: Json | undefined = value
  if (Array.isArray(value)) {
    const named = value.find(
      (item) => typeof item === 'object' && item !== null && !Array.isArray(item) && item.name === 'default',
    )
    if (named === undefined) throw fail('expected a template named "default" in the list')
    template = (named as { [key: string]: Json }).template
  }
  if (typeof template !== 'string') throw fail('expected a string, or a list of { name, template }')
  if (template.length > MAX_TEMPLATE) throw fail(`${template.length} characters; at most ${MAX_TEMPLATE} are read`)
  return template
}

/** What tokenizer files say, checked: anything that would change ids and is not supported is refused by name. */
import { Qwen3Error } from '../errors'
import type { AddedToken } from './added'
import type { VocabularySource } from './builder'
import { bad, quote } from './bytes'
import { type JsonObject as Json, JsonReader, JsonSpan } from './json'
import { QWEN_PATTERN } from './split'

const MAX_ADDED_TOKENS = 65536
const MAX_ADDED_UNITS = 1024

/** Reads a `tokenizer.json`, all but its vocabulary and merges. */
export function* describeTokenizerJson(bytes: Buffer, file: string): Generator<undefined, VocabularySource> {
  const reader = new JsonReader(bytes, file)
  const root = object(yield* reader.read(['model.vocab', 'model.merges']), file, 'the file')
  checkNormalizer(root.normalizer, file)
  checkPreTokenizer(root.pre_tokenizer, file)
  checkDecoder(root.decoder, file)
  const model = object(root.model, file, 'model')
  if (model.type !== undefined && model.type !== 'BPE') throw unsupported(file, 'model.type', model.type, '"BPE"')
  for (const field of [
    'dropout',
    'continuing_subword_prefix',
    'end_of_word_suffix',
    'byte_fallback',
    'ignore_merges',
  ]) {
    const value = model[field]
    if (value !== undefined && value !== null && value !== '' && value !== false && value !== 0) {
      throw unsupported(file, `model.${field}`, value, 'none')
    }
  }
  const addedTokens = list(root.added_tokens ?? [], file, 'added_tokens').map((token, i) => {
    const entry = object(token, file, `added_tokens[${i}]`)
    return checkAddedToken(entry, entry.id, file, `added_tokens[${i}]`)
  })
  rejectDuplicates(addedTokens, file)
  return {
    vocab: { reader, span: span(model.vocab, 'object', file, 'model.vocab'), field: 'model.vocab' },
    merges: { reader, span: span(model.merges, 'array', file, 'model.merges') },
    addedTokens,
  }
}

/** A part that was left for the builder. */
function span(value: unknown, kind: 'object' | 'array', file: string, field: string): JsonSpan {
  if (value instanceof JsonSpan && value.kind === kind) return value
  const found = value instanceof JsonSpan ? `an ${value.kind}` : show(value)
  throw bad(file, `${field}: expected an ${kind}, received ${found}`)
}

/** Files of a directory, read whole. */
export interface NamedFile {
  bytes: Buffer
  file: string
}

/** Reads `vocab.json`, `merges.txt`, and the `tokenizer_config.json` beside them (which may be absent). */
export function* describeVocabAndMerges(files: {
  vocab: NamedFile
  merges: NamedFile
  config?: NamedFile
}): Generator<undefined, VocabularySource> {
  const reader = new JsonReader(files.vocab.bytes, files.vocab.file)
  const vocab = span(yield* reader.read(['']), 'object', files.vocab.file, 'the file')
  return {
    vocab: { reader, span: vocab, field: 'the file' },
    merges: { lines: files.merges.bytes, file: files.merges.file },
    addedTokens: files.config ? yield* addedTokensOfConfig(files.config) : [],
  }
}

function* addedTokensOfConfig({ bytes, file }: NamedFile): Generator<undefined, AddedToken[]> {
  const config = object(yield* new JsonReader(bytes, file).read(), file, 'the file')
  const kind = config.tokenizer_class
  if (kind !== undefined && kind !== 'Qwen2Tokenizer' && kind !== 'Qwen2TokenizerFast') {
    throw unsupported(file, 'tokenizer_class', kind, '"Qwen2Tokenizer"')
  }
  if (config.add_prefix_space) throw unsupported(file, 'add_prefix_space', config.add_prefix_space, 'false')
  const decoder = object(config.added_tokens_decoder ?? {}, file, 'added_tokens_decoder')
  const addedTokens = Object.entries(decoder).map(([id, token]) => {
    const field = `added_tokens_decoder[${quote(id)}]`
    return checkAddedToken(object(token, file, field), Number(id), file, field)
  })
  rejectDuplicates(addedTokens, file)
  return addedTokens
}

function checkNormalizer(value: unknown, file: string): void {
  const steps = sequence(value, 'normalizers', file, 'normalizer')
  if (steps.length === 1 && steps[0]!.type === 'NFC') return
  const found = steps.length === 0 ? null : steps.map((step) => step.type).join(' + ')
  throw unsupported(file, 'normalizer', found, '"NFC"')
}

function checkPreTokenizer(value: unknown, file: string): void {
  const steps = sequence(value, 'pretokenizers', file, 'pre_tokenizer')
  const [split, bytes] = steps
  if (steps.length !== 2 || split?.type !== 'Split' || bytes?.type !== 'ByteLevel') {
    throw unsupported(file, 'pre_tokenizer', steps.map((step) => step.type).join(' + ') || null, '"Split + ByteLevel"')
  }
  const pattern = object(split.pattern, file, 'pre_tokenizer: pattern')
  if (pattern.Regex !== QWEN_PATTERN) {
    throw unsupported(file, 'pre_tokenizer: pattern', pattern.Regex ?? pattern.String, "Qwen's split pattern")
  }
  if (split.behavior !== 'Isolated') throw unsupported(file, 'pre_tokenizer: behavior', split.behavior, '"Isolated"')
  if (split.invert) throw unsupported(file, 'pre_tokenizer: invert', split.invert, 'false')
  // Both default to true where they are absent.
  if (bytes.add_prefix_space !== false) {
    throw unsupported(file, 'pre_tokenizer: add_prefix_space', bytes.add_prefix_space, 'false')
  }
  if (bytes.use_regex !== false) throw unsupported(file, 'pre_tokenizer: use_regex', bytes.use_regex, 'false')
}

function checkDecoder(value: unknown, file: string): void {
  const steps = sequence(value, 'decoders', file, 'decoder')
  if (steps.length === 1 && steps[0]!.type === 'ByteLevel') return
  throw unsupported(file, 'decoder', steps.map((step) => step.type).join(' + ') || null, '"ByteLevel"')
}

/** The steps of a component that may be null, one step, or a Sequence of them. */
function sequence(value: unknown, key: string, file: string, field: string): Json[] {
  if (value === undefined || value === null) return []
  const component = object(value, file, field)
  if (typeof component.type !== 'string')
    throw bad(file, `${field}.type: expected a string, received ${show(component.type)}`)
  if (component.type !== 'Sequence') return [component]
  return list(component[key], file, `${field}.${key}`).flatMap((step, i) => {
    const inner = object(step, file, `${field}.${key}[${i}]`)
    if (inner.type === 'Sequence') throw unsupported(file, `${field}.${key}[${i}]`, 'Sequence', 'no nested sequence')
    return [inner]
  })
}

function checkAddedToken(entry: Json, id: unknown, file: string, field: string): AddedToken {
  const { content } = entry
  if (typeof content !== 'string' || content === '' || content.length > MAX_ADDED_UNITS) {
    throw bad(
      file,
      `${field}.content: expected a string of 1 to ${MAX_ADDED_UNITS} characters, received ${show(content)}`,
    )
  }
  if (/\p{Cs}/u.test(content)) throw bad(file, `${field}.content: holds half a surrogate pair`)
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
    throw bad(file, `${field}.id: expected a whole number, received ${show(id)}`)
  }
  const flag = (name: string, missing: boolean): boolean => {
    const value = entry[name] ?? missing
    if (typeof value !== 'boolean') throw bad(file, `${field}.${name}: expected true or false, received ${show(value)}`)
    return value
  }
  const special = flag('special', false)
  return {
    id,
    content,
    special,
    lstrip: flag('lstrip', false),
    rstrip: flag('rstrip', false),
    single_word: flag('single_word', false),
    normalized: flag('normalized', !special),
  }
}

/** Refuses added tokens that share an id or a text. */
function rejectDuplicates(tokens: readonly AddedToken[], file: string): void {
  if (tokens.length > MAX_ADDED_TOKENS) {
    throw bad(file, `added_tokens: ${tokens.length} entries; at most ${MAX_ADDED_TOKENS} are read`)
  }
  const ids = new Map<number, string>()
  const contents = new Set<string>()
  for (const { id, content } of tokens) {
    const other = ids.get(id)
    if (other !== undefined)
      throw bad(file, `added_tokens: id ${id} belongs to both ${quote(other)} and ${quote(content)}`)
    if (contents.has(content)) throw bad(file, `added_tokens: ${quote(content)} is listed twice`)
    ids.set(id, content)
    contents.add(content)
  }
}

function object(value: unknown, file: string, field: string): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  throw bad(file, `${field}: expected an object, received ${show(value)}`)
}

function list(value: unknown, file: string, field: string): unknown[] {
  if (Array.isArray(value)) return value
  throw bad(file, `${field}: expected an array, received ${show(value)}`)
}

/** A value of a file in a message. */
function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'string') return quote(value)
  if (Array.isArray(value)) return `an array of ${value.length}`
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}

function unsupported(file: string, field: string, received: unknown, expected: string): Qwen3Error {
  const message = `${file}: ${field}: only ${expected} is supported, received ${show(received)}`
  return new Qwen3Error('UNSUPPORTED', message, { subject: `${file}: ${field}` })
}

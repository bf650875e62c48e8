/** Finds and reads the tokenizer files of a model directory. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { Qwen3Error } from '../errors'
import type { VocabularySource } from './builder'
import { bad } from './bytes'
import { describeTokenizerJson, describeVocabAndMerges, type NamedFile } from './description'
import { finish, finishInSlices, JsonReader, readFile } from './json'

/** Qwen3's tokenizer.json has 11 MB. */
const MAX_TOKENIZER_BYTES = 128 * 2 ** 20
const MAX_CONFIG_BYTES = 8 * 2 ** 20

/** What the files of a directory say, with the vocab_size of its config.json where it has one. */
export async function describeDirectory(directory: string | URL): Promise<VocabularySource> {
  const root = directoryPath(directory)
  const entry = await stat(root).catch(() => undefined)
  if (!entry?.isDirectory()) {
    throw new Qwen3Error('MODEL_NOT_FOUND', `${root}: there is no such directory`, { subject: root })
  }
  const vocabLimit = await readVocabLimit(path.join(root, 'config.json'))
  const file = path.join(root, 'tokenizer.json')
  const bytes = await readFile(file, MAX_TOKENIZER_BYTES)
  const source = bytes ? await finishInSlices(describeTokenizerJson(bytes, file)) : await describeParts(root)
  return { ...source, vocabLimit }
}

function directoryPath(directory: string | URL): string {
  if (directory instanceof URL || (typeof directory === 'string' && directory.startsWith('file:'))) {
    try {
      return fileURLToPath(directory)
    } catch (cause) {
      throw new Qwen3Error('INVALID_ARGUMENT', `directory: ${(cause as Error).message}`, {
        subject: 'directory',
        cause,
      })
    }
  }
  if (typeof directory === 'string' && directory !== '') return directory
  const message = `directory: expected a path or file URL, received ${String(directory)}`
  throw new Qwen3Error('INVALID_ARGUMENT', message, { subject: 'directory' })
}

async function describeParts(root: string): Promise<VocabularySource> {
  const read = async (name: string, maxBytes: number): Promise<NamedFile | undefined> => {
    const file = path.join(root, name)
    const bytes = await readFile(file, maxBytes)
    return bytes && { bytes, file }
  }
  const vocab = await read('vocab.json', MAX_TOKENIZER_BYTES)
  const merges = await read('merges.txt', MAX_TOKENIZER_BYTES)
  if (!vocab && !merges) {
    const message = `${root}: holds neither tokenizer.json nor vocab.json and merges.txt`
    throw new Qwen3Error('BAD_MODEL_FILE', message, { subject: root })
  }
  if (!vocab) throw bad(path.join(root, 'vocab.json'), 'is missing beside merges.txt')
  if (!merges) throw bad(path.join(root, 'merges.txt'), 'is missing beside vocab.json')
  const config = await read('tokenizer_config.json', MAX_CONFIG_BYTES)
  return finishInSlices(describeVocabAndMerges({ vocab, merges, ...(config && { config }) }))
}

async function readVocabLimit(file: string): Promise<number | undefined> {
  const bytes = await readFile(file, MAX_CONFIG_BYTES)
  if (bytes === undefined) return undefined
  const config = finish(new JsonReader(bytes, file).read())
  const size = (config as { vocab_size?: unknown } | null)?.vocab_size
  if (size === undefined) return undefined
  if (typeof size === 'number' && Number.isInteger(size) && size > 0 && size < 2 ** 31) return size
  throw bad(file, `vocab_size: expected a positive whole number, received ${String(size)}`)
}

/** Finds and reads the tokenizer files of a model directory. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { Qwen3Error } from '../errors'
import { describeTokenizerJson, describeVocabAndMerges, type TokenizerDescription } from './description'
import { parseJson, readText } from './json'
import { bad } from './vocab'

/** Qwen3's tokenizer.json has 11 MB. */
const MAX_TOKENIZER_BYTES = 128 * 2 ** 20
const MAX_CONFIG_BYTES = 8 * 2 ** 20

/** What a directory says, and the vocab_size of its config.json where it has one. */
export async function describeDirectory(
  directory: string | URL,
): Promise<{ description: TokenizerDescription; vocabLimit?: number }> {
  const root = directoryPath(directory)
  const entry = await stat(root).catch(() => undefined)
  if (!entry?.isDirectory()) {
    throw new Qwen3Error('MODEL_NOT_FOUND', `${root}: there is no such directory`, { subject: root })
  }
  const vocabLimit = await readVocabLimit(path.join(root, 'config.json'))
  const file = path.join(root, 'tokenizer.json')
  const text = await readText(file, MAX_TOKENIZER_BYTES)
  if (text !== undefined) return { description: describeTokenizerJson(parseJson(text, file), file), vocabLimit }
  return { description: await describeParts(root), vocabLimit }
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

async function describeParts(root: string): Promise<TokenizerDescription> {
  const paths = {
    vocab: path.join(root, 'vocab.json'),
    merges: path.join(root, 'merges.txt'),
    config: path.join(root, 'tokenizer_config.json'),
  }
  const vocab = await readText(paths.vocab, MAX_TOKENIZER_BYTES)
  const merges = await readText(paths.merges, MAX_TOKENIZER_BYTES)
  if (vocab === undefined && merges === undefined) {
    const message = `${root}: holds neither tokenizer.json nor vocab.json and merges.txt`
    throw new Qwen3Error('BAD_MODEL_FILE', message, { subject: root })
  }
  if (vocab === undefined) throw bad(paths.vocab, 'is missing beside merges.txt')
  if (merges === undefined) throw bad(paths.merges, 'is missing beside vocab.json')
  const config = await readText(paths.config, MAX_CONFIG_BYTES)
  return describeVocabAndMerges(
    {
      vocab: parseJson(vocab, paths.vocab),
      merges,
      config: config === undefined ? undefined : parseJson(config, paths.config),
    },
    paths,
  )
}

async function readVocabLimit(file: string): Promise<number | undefined> {
  const text = await readText(file, MAX_CONFIG_BYTES)
  if (text === undefined) return undefined
  const size = (parseJson(text, file) as { vocab_size?: unknown } | null)?.vocab_size
  if (size === undefined) return undefined
  if (typeof size === 'number' && Number.isInteger(size) && size > 0 && size < 2 ** 31) return size
  throw bad(file, `vocab_size: expected a positive whole number, received ${String(size)}`)
}

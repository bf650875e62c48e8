import { existsSync } from 'node:fs'
import { realpath, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Qwen3Error, received } from '../errors'
import { familyRows } from './family'
import { isMissing } from './files'

/** What a model name means. */
export type ResolvedName = { kind: 'builtin' | 'path'; directory: string } | { kind: 'random'; row: string }

/** Models that ship inside the package. */
export const builtinModels = ['nano', 'nano-moe'] as const

/** The package's models/ folder: found upwards from this file, so from dist/ and from source alike. */
export function modelsDirectory(): string {
  for (let folder = __dirname; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json')) && existsSync(join(folder, 'models'))) return join(folder, 'models')
    if (folder === dirname(folder)) {
      throw new Qwen3Error(
        'MODEL_NOT_FOUND',
        `The package's models folder is missing (searched upwards from ${__dirname}). Reinstall qwen3.`,
        { subject: __dirname },
      )
    }
  }
}

/**
 * Resolves a model name: `nano`, `nano-moe`, `random:<row>`, or a folder given as a path that begins with `./`, `../`, `/`
 * (or a drive letter on Windows), as `file:` URL text, or as a URL. Everything else is kept for the hub and is
 * `MODEL_NOT_FOUND`, with near names.
 */
export async function resolveName(name: string | URL): Promise<ResolvedName> {
  const text = name instanceof URL ? name.href : name
  if (typeof text !== 'string' || text === '' || text.includes('\0')) {
    throw new Qwen3Error('INVALID_ARGUMENT', `model: expected a name or a path, received ${received(name)}.`, {
      subject: 'model',
    })
  }
  if ((builtinModels as readonly string[]).includes(text)) {
    return { kind: 'builtin', directory: await folder(join(modelsDirectory(), text), text) }
  }
  if (text.startsWith('random:')) {
    const row = text.slice('random:'.length).toLowerCase()
    if (familyRows.includes(row)) return { kind: 'random', row }
    throw notFound(
      text,
      [`the rows of random: (${familyRows.join(', ')})`],
      familyRows.map((known) => `random:${known}`),
    )
  }
  if (/^file:/i.test(text)) return { kind: 'path', directory: await folder(pathOfUrl(text), text) }
  if (/^(\.{0,2}[\\/]|[A-Za-z]:[\\/])/.test(text) || text === '.' || text === '..') {
    return { kind: 'path', directory: await folder(resolve(text), text) }
  }
  const tried = [
    `the built-in models (${builtinModels.join(', ')})`,
    'random:<row>',
    'a path (it must begin with ./, ../ or /)',
  ]
  const asPath = existsSync(resolve(text)) ? [`./${text}`] : []
  throw notFound(text, tried, [...builtinModels, ...familyRows.map((row) => `random:${row}`)], asPath)
}

function pathOfUrl(url: string): string {
  try {
    return fileURLToPath(url)
  } catch (error) {
    throw new Qwen3Error('INVALID_ARGUMENT', `model: not a usable file URL: ${(error as Error).message}.`, {
      subject: 'model',
      cause: error,
    })
  }
}

async function folder(path: string, asked: string): Promise<string> {
  try {
    const real = await realpath(path)
    if ((await stat(real)).isDirectory()) return real
  } catch (error) {
    if (isMissing(error)) throw notFound(asked, [`the folder ${path}`], builtinModels)
    throw new Qwen3Error('BAD_MODEL_FILE', `${path}: cannot be opened: ${(error as Error).message}.`, {
      subject: path,
      cause: error,
    })
  }
  throw new Qwen3Error('BAD_MODEL_FILE', `${path}: expected a folder with config.json and weights, found a file.`, {
    subject: path,
  })
}

function notFound(asked: string, tried: string[], known: readonly string[], certain: string[] = []): Qwen3Error {
  const near = [...certain, ...nearNames(asked, known)].slice(0, 3)
  const hint = near.length > 0 ? ` Did you mean ${near.join(' or ')}?` : ''
  const shown = JSON.stringify(asked.slice(0, 200))
  return new Qwen3Error('MODEL_NOT_FOUND', `No model ${shown}. Tried: ${tried.join('; ')}.${hint}`, {
    subject: asked.slice(0, 200),
  })
}

/** Known names within an edit distance of a third of their length, nearest first. */
export function nearNames(asked: string, known: readonly string[]): string[] {
  const lower = asked.toLowerCase().slice(0, 64)
  const tail = lower.split('/').pop()!
  return known
    .map((name) => {
      const bare = name.replace(/^random:/, '')
      const distance = Math.min(editDistance(lower, name), editDistance(tail, bare))
      return { name, distance, allowed: Math.max(1, Math.floor(bare.length / 3)) }
    })
    .filter(({ distance, allowed }) => distance <= allowed)
    .sort((a, b) => a.distance - b.distance)
    .map(({ name }) => name)
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]!
}

/** Where packed weights are kept between runs. The addon writes and reads the files: native/model/weight_file.h. */
import { createHash } from 'node:crypto'
import { homedir } from 'node:os'
import { basename, isAbsolute, join, resolve } from 'node:path'
import type { LoadOptions } from './types'
import { warnOnce } from './warn'
import type { ModelDescription } from './weights'

/** The folder for `weightCache: true`: `qwen3/weights` in $XDG_CACHE_HOME, else in ~/.cache. */
export function defaultCacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const { XDG_CACHE_HOME: own } = env
  // The XDG specification: a path that is not absolute is to be ignored.
  const base = own && isAbsolute(own) ? own : join(homedir(), '.cache')
  return join(base, 'qwen3', 'weights')
}

/**
 * Folder and beginning of the file's name. One name for each source, so that a model that has changed replaces its file
 * instead of leaving the old one behind; the formats and the layout are added to it.
 */
export function weightCacheOf(
  description: Pick<ModelDescription, 'kind' | 'key' | 'directory'>,
  option: LoadOptions['weightCache'],
): { folder: string; name: string } | undefined {
  if (option === undefined || option === false) return undefined
  const folder = option === true ? homeFolder() : resolve(option)
  if (folder === undefined) return undefined
  const { kind, key, directory } = description
  if (kind === 'random') return { folder, name: plain(key) }
  const place = createHash('sha256').update(directory).digest('hex').slice(0, 16)
  return { folder, name: `${plain(basename(directory))}-${place}` }
}

function homeFolder(): string | undefined {
  try {
    return defaultCacheFolder()
  } catch (error) {
    // A container may run as a user that has neither HOME nor an entry in passwd.
    warnOnce(`weightCache: this user has no home folder (${(error as Error).message}); pass a folder instead of true.`)
    return undefined
  }
}

const plain = (text: string) => text.replace(/[^\w.-]+/g, '-').slice(0, 80)

import { constants } from 'node:fs'
import { type FileHandle, open, realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve, sep } from 'node:path'
import { Qwen3Error } from '../errors'

/** Identity of a file at the time it was checked. */
export interface FileStamp {
  /** Real path. */
  path: string
  size: number
  mtimeNs: bigint
}

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException | undefined)?.code

/** Whether an error only says that the file is not there. */
export function isMissing(error: unknown): boolean {
  return codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR'
}

/**
 * The folder a model is loaded from. No file outside it is opened, whatever an index or a link says, with one exception:
 * the cache of the Hugging Face hub keeps `models--ORG--NAME/snapshots/REVISION` as links into `models--ORG--NAME/blobs`,
 * so for exactly that layout the sibling `blobs` belongs to the model too.
 */
export class ModelDirectory {
  private constructor(
    /** Real path of the folder. */
    readonly root: string,
    private readonly allowed: string[],
  ) {}

  static async open(path: string): Promise<ModelDirectory> {
    const root = await realpath(path)
    const snapshots = dirname(root)
    const repository = dirname(snapshots)
    const isHubCache = basename(snapshots) === 'snapshots' && basename(repository).startsWith('models--')
    return new ModelDirectory(root, isHubCache ? [root, join(repository, 'blobs')] : [root])
  }

  /** Real path of a file named inside the folder; throws when it leads out of it, undefined when there is none. */
  async locate(name: string): Promise<string | undefined> {
    const wanted = resolve(this.root, name)
    if (name.includes('\0') || !isInside(this.root, wanted)) throw outside(name, this.root)
    let real: string
    try {
      real = await realpath(wanted)
    } catch (error) {
      if (isMissing(error)) return undefined
      throw new Qwen3Error('BAD_MODEL_FILE', `${wanted}: ${(error as Error).message}`, {
        subject: wanted,
        cause: error,
      })
    }
    if (!this.allowed.some((folder) => isInside(folder, real))) throw outside(name, this.root)
    return real
  }

  /** Opens a regular file for reading and takes its size from the open handle; undefined when there is none. */
  async open(name: string): Promise<{ handle: FileHandle; stamp: FileStamp } | undefined> {
    const path = await this.locate(name)
    if (path === undefined) return undefined
    let handle: FileHandle | undefined
    try {
      // Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
      handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
      const stat = await handle.stat({ bigint: true })
      if (!stat.isFile()) throw new Error('not a regular file')
      return { handle, stamp: { path, size: Number(stat.size), mtimeNs: stat.mtimeNs } }
    } catch (error) {
      await handle?.close()
      throw new Qwen3Error('BAD_MODEL_FILE', `${path}: cannot be read: ${(error as Error).message}`, {
        subject: path,
        cause: error,
      })
    }
  }

  /** Reads a whole text file of at most `maxBytes`; undefined when there is none. Refuses bytes that are not UTF-8. */
  async readText(name: string, maxBytes: number): Promise<{ text: string; stamp: FileStamp } | undefined> {
    const opened = await this.open(name)
    if (opened === undefined) return undefined
    const { handle, stamp } = opened
    try {
      if (stamp.size > maxBytes) {
        throw new Qwen3Error('BAD_MODEL_FILE', `${stamp.path}: ${stamp.size} bytes; at most ${maxBytes} are read.`, {
          subject: stamp.path,
        })
      }
      return { text: decodeUtf8(await readExactly(handle, 0, stamp.size, stamp.path), stamp.path), stamp }
    } finally {
      await handle.close()
    }
  }
}

/** The part of a file handle that reading needs. */
export interface Readable {
  read(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>
}

/** Reads exactly `length` bytes at `offset`, or throws that the file is shorter than it was. */
export async function readExactly(handle: Readable, offset: number, length: number, path: string): Promise<Uint8Array> {
  const buffer = new Uint8Array(length)
  let done = 0
  while (done < length) {
    const { bytesRead } = await handle.read(buffer, done, length - done, offset + done)
    if (bytesRead === 0) {
      throw new Qwen3Error(
        'BAD_MODEL_FILE',
        `${path}: ends at byte ${offset + done}, before byte ${offset + length}.`,
        {
          subject: path,
        },
      )
    }
    done += bytesRead
  }
  return buffer
}

/** Strict UTF-8; a leading byte order mark is dropped. */
export function decodeUtf8(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new Qwen3Error('BAD_MODEL_FILE', `${path}: not valid UTF-8.`, { subject: path, cause: error })
  }
}

function isInside(folder: string, path: string): boolean {
  return path.startsWith(folder.endsWith(sep) ? folder : folder + sep)
}

function outside(name: string, root: string): Qwen3Error {
  return new Qwen3Error(
    'BAD_MODEL_FILE',
    `${root}: the model names the file ${JSON.stringify(name.slice(0, 200))}, which lies outside its folder. Copy the file into the folder.`,
    { subject: name.slice(0, 200) },
  )
}

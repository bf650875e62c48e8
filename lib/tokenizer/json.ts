/** Reading of JSON files that may be hostile: size and depth are bounded before anything is built from them. */
import { open } from 'node:fs/promises'
import { Qwen3Error } from '../errors'
import { bad } from './vocab'

const MAX_DEPTH = 32

/** Reads a text file of at most `maxBytes`; undefined when there is none. */
export async function readText(file: string, maxBytes: number): Promise<string | undefined> {
  let handle: Awaited<ReturnType<typeof open>>
  try {
    handle = await open(file, 'r')
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new Qwen3Error('BAD_MODEL_FILE', `${file}: cannot be opened (${code})`, { subject: file, cause })
  }
  try {
    const stat = await handle.stat()
    if (!stat.isFile()) throw bad(file, 'is not a file')
    if (stat.size > maxBytes) throw bad(file, `is ${stat.size} bytes long; at most ${maxBytes} are read`)
    const bytes = await handle.readFile()
    if (bytes.length > maxBytes) throw bad(file, `is longer than ${maxBytes} bytes`)
    return bytes.toString('utf8')
  } catch (cause) {
    if (cause instanceof Qwen3Error) throw cause
    throw new Qwen3Error('BAD_MODEL_FILE', `${file}: cannot be read`, { subject: file, cause })
  } finally {
    await handle.close()
  }
}

/** Parses JSON of bounded depth. `file` is for messages. */
export function parseJson(text: string, file: string): unknown {
  checkDepth(text, file)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new Qwen3Error('BAD_MODEL_FILE', `${file}: is not valid JSON (${(cause as Error).message.slice(0, 200)})`, {
      subject: file,
      cause,
    })
  }
}

function checkDepth(text: string, file: string): void {
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 0x22) {
      for (i++; i < text.length; i++) {
        const inner = text.charCodeAt(i)
        if (inner === 0x5c) i++
        else if (inner === 0x22) break
      }
    } else if (c === 0x5b || c === 0x7b) {
      if (++depth > MAX_DEPTH) throw bad(file, `is nested deeper than ${MAX_DEPTH} levels`)
    } else if (c === 0x5d || c === 0x7d) {
      depth--
    }
  }
}

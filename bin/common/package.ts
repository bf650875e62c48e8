/** Where the package's own files lie, both as sources and as dist/. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

let found: string | undefined

/** The folder of this package: the nearest one above with a package.json of the name qwen3. */
export function packageRoot(): string {
  for (let folder = __dirname; found === undefined; folder = dirname(folder)) {
    const file = join(folder, 'package.json')
    if (existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { name?: string }).name === 'qwen3')
      found = folder
    else if (dirname(folder) === folder) throw new Error(`no package.json of qwen3 above ${__dirname}`)
  }
  return found
}

export const packageFile = (...path: string[]): string => join(packageRoot(), ...path)

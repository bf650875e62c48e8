/** The library as JavaScript, for tests that need it in another process or thread: compiled once per test file. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'

const repository = join(__dirname, '..', '..')

export interface CompiledLibrary {
  /** lib/index.js */
  index: string
  remove(): void
}

/** Under build/, so that the package's root and its addon are found as ever. */
export function compileLibrary(): CompiledLibrary {
  mkdirSync(join(repository, 'build'), { recursive: true })
  const folder = mkdtempSync(join(repository, 'build', 'test-library-'))
  const compiler = join(repository, 'node_modules/typescript/bin/tsc')
  const options = ['--declaration', 'false', '--outDir', folder]
  execFileSync(process.execPath, [compiler, '-p', 'tsconfig.build.json', ...options], {
    cwd: repository,
    stdio: 'pipe',
  })
  return { index: join(folder, 'lib/index.js'), remove: () => rmSync(folder, { recursive: true, force: true }) }
}

export const fixture = (name: string) => join(repository, 'test/fixtures', name)

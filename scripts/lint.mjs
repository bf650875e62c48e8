// `npm run lint`: Biome, clang-format, the type checker and the layering check; all of them run, any of them can fail.
// `--fix` (npm run format) rewrites what Biome and clang-format can rewrite.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fail, has, howToInstall, root } from './setup.mjs'

const fix = process.argv.includes('--fix')
// Two versions of clang-format disagree on details; 14 (Debian 12) is the one whose output is committed.
const clangFormat = has('clang-format-14') ? 'clang-format-14' : 'clang-format'
if (!has(clangFormat)) fail(howToInstall('clang-format'))

const native = spawnSync(
  'git',
  ['ls-files', '-co', '--exclude-standard', 'native', 'test/native', 'bench/native', 'bench/gpu'],
  {
    cwd: root,
    encoding: 'utf8',
  },
)
  .stdout.split('\n')
  .filter((path) => /\.(cc|h|c)$/.test(path))

const node = process.execPath
const modules = (path) => join(root, 'node_modules', path)
const steps = [
  ['biome', node, [modules('@biomejs/biome/bin/biome'), 'check', ...(fix ? ['--write'] : []), '.']],
  ['clang-format', clangFormat, [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...native]],
]
if (!fix) {
  steps.push(['types', node, [modules('typescript/bin/tsc'), '--noEmit', '-p', '.']])
  steps.push(['layers', node, [join(root, 'scripts/check-layers.mjs')]])
}

let failed = 0
for (const [name, command, args] of steps) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  console.log(`${name}: ${status === 0 ? 'ok' : 'failed'}`)
  if (status !== 0) failed++
}
process.exitCode = failed > 0 ? 1 : 0

// `npm run api`: the public declarations (dist/lib/index.d.ts and what it re-exports) against the committed report. A change of the API is
// then a change of etc/qwen3.api.d.ts that a reviewer sees. `--update` writes the report.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fail, root } from './setup.mjs'

const report = join(root, 'etc/qwen3.api.d.ts')
const dist = join(root, 'dist')
if (!existsSync(join(dist, 'lib/index.d.ts'))) fail('dist/ is missing: npm run build:ts')

const seen = new Set()
const parts = []
visit(join(dist, 'lib/index.d.ts'))
const current = `// The public declarations of the package, written by \`npm run api -- --update\`.\n\n${parts.join('\n')}`

if (process.argv.includes('--update')) {
  mkdirSync(dirname(report), { recursive: true })
  writeFileSync(report, current)
  console.log(`${relative(root, report)} written: ${seen.size} files`)
} else {
  const committed = existsSync(report) ? readFileSync(report, 'utf8') : ''
  if (committed === current) console.log('api: as committed')
  else {
    const before = new Set(committed.split('\n'))
    const after = new Set(current.split('\n'))
    for (const line of before) if (!after.has(line)) console.error(`- ${line}`)
    for (const line of after) if (!before.has(line)) console.error(`+ ${line}`)
    fail(
      'The public API differs from etc/qwen3.api.d.ts. If that is meant: npm run api -- --update, and say so in CHANGELOG.md.',
    )
  }
}

function visit(file) {
  if (seen.has(file)) return
  seen.add(file)
  const text = readFileSync(file, 'utf8')
  for (const [, specifier] of text.matchAll(/^export\s[^;]*?\sfrom\s+['"](\.[^'"]+)['"]/gm)) {
    const target = resolve(dirname(file), specifier)
    const found = [`${target}.d.ts`, join(target, 'index.d.ts'), target.replace(/\.js$/, '.d.ts')].find(existsSync)
    if (!found) fail(`${relative(root, file)}: ${specifier} is not in dist/`)
    visit(found)
  }
  parts.push(`// ---- ${relative(dist, file)}\n${text}`)
}

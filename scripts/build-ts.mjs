// dist/: one CommonJS emit of lib/ and bin/, and for every public subpath an ES module facade over it. Both `import` and
// `require` then reach the same objects, so there is one Qwen3Error class whichever way it was loaded.
import { chmodSync, existsSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { root, run } from './setup.mjs'

const require = createRequire(import.meta.url)
const entries = ['lib/index']

rmSync(join(root, 'dist'), { recursive: true, force: true })
run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'])
for (const entry of entries) writeFacade(entry)
chmodSync(join(root, 'dist/bin/qwen3.js'), 0o755)

function writeFacade(entry) {
  const file = join(root, 'dist', `${entry}.js`)
  if (!existsSync(file)) throw new Error(`${entry} was not emitted`)
  const name = entry.split('/').pop()
  const names = Object.keys(require(file)).sort()
  const lines = names.map((value) => `export const ${value} = api.${value}`)
  writeFileSync(file.replace(/\.js$/, '.mjs'), `import api from './${name}.js'\n\n${lines.join('\n')}\n`)
  writeFileSync(file.replace(/\.js$/, '.d.mts'), `export * from './${name}.js'\n`)
}

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { percent } from '../bench/support/readme'
import { exitCode } from '../bin/common/exit'
import { repository } from './helpers/command'

const read = (...path: string[]) => readFileSync(join(repository, ...path), 'utf8')
const readme = read('README.md')

describe('documents', () => {
  const documents = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'examples/README.md', 'train/README.md']
  for (const name of readdirSync(join(repository, 'docs'))) if (name.endsWith('.md')) documents.push(`docs/${name}`)

  it.each(documents)('every link of %s leads somewhere', (name) => {
    const links = [...read(name).matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)].map((match) => match[1]!)
    const broken = links.filter((link) => !/^https?:/.test(link) && !existsSync(join(repository, dirname(name), link)))
    expect(broken).toEqual([])
  })

  it('every npm script that CONTRIBUTING.md names exists', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const named = [...read('CONTRIBUTING.md').matchAll(/npm run ([\w:]+)/g)].map((match) => match[1]!)
    expect(named.filter((name) => scripts[name] === undefined)).toEqual([])
    expect(named.length).toBeGreaterThan(8)
  })

  it('the README lists the exit codes that the command uses', () => {
    for (const code of Object.values(exitCode))
      expect(readme).toMatch(new RegExp(`^\\|[^|]*\\b${code}\\b[^|]*\\|`, 'm'))
  })

  it("the README's accuracies are those that were measured", () => {
    const { models } = JSON.parse(read('bench/results/budget.json'))
    for (const name of ['nano', 'nano-moe']) {
      const row = readme.split('\n').find((line) => line.startsWith(`| \`${name}\` `) && line.includes('%'))
      expect(row).toContain(percent(models[name].thinking))
      expect(row).toContain(percent(models[name].withoutThinking))
    }
  })
})

describe('package.json', () => {
  const manifest = JSON.parse(read('package.json'))

  it('has no script that runs at installation, and keeps npm from running node-gyp', () => {
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare', 'prepublish'])
      expect(manifest.scripts).not.toHaveProperty(name)
    expect(manifest.gypfile).toBe(false)
    expect(manifest.files).not.toContain('binding.gyp')
    // cmake-js then uses node-api-headers and downloads nothing.
    expect(manifest.binary.napi_versions).toHaveLength(1)
  })

  it('gives types to import and to require', () => {
    expect(manifest.exports['.']).toEqual({
      import: { types: './dist/lib/index.d.mts', default: './dist/lib/index.mjs' },
      require: { types: './dist/lib/index.d.ts', default: './dist/lib/index.js' },
    })
    expect(manifest.exports['./package.json']).toBe('./package.json')
  })

  it('locks every dependency with its integrity', () => {
    const { packages } = JSON.parse(read('package-lock.json')) as {
      packages: Record<string, { integrity?: string; link?: boolean }>
    }
    const unlocked = Object.entries(packages).filter(([path, entry]) => path !== '' && !entry.link && !entry.integrity)
    expect(unlocked.map(([path]) => path)).toEqual([])
  })
})

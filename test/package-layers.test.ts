import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { repository } from './helpers/command'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'qwen3-layers-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function check(files: Record<string, string>): { status: number | null; lines: string[] } {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  const { status, stderr } = spawnSync(process.execPath, [join(repository, 'scripts/check-layers.mjs'), folder], {
    encoding: 'utf8',
  })
  return { status, lines: stderr.trim().split('\n').filter(Boolean) }
}

describe('the layering check', () => {
  it('passes on this repository', () => {
    const { status, stderr } = spawnSync(process.execPath, [join(repository, 'scripts/check-layers.mjs')], {
      encoding: 'utf8',
    })
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  })

  it('accepts what points the right way', () => {
    const result = check({
      'native/engine/engine.cc': '#include "model/model.h"\n#include <vector>\n// not the cpu, a comment\n',
      'native/node/addon.cc': '#include "cpu/backend.h"\n',
      'bin/run.ts': "import { Qwen3 } from '../lib/index'\nimport { readFile } from 'node:fs/promises'\n",
      'lib/native.ts': "import load from 'node-gyp-build'\n",
    })
    expect(result).toEqual({ status: 0, lines: [] })
  })

  it.each([
    ['native/ops/step.h', '\n#include "model/model.h"\n', 'native/ops/step.h:2: ops must not include "model/model.h"'],
    [
      'native/model/forward.cc',
      '#include "cpu/linear.h"\n',
      'native/model/forward.cc:1: model must not include "cpu/linear.h"',
    ],
    ['native/cpu/linear.cc', '#include "engine/engine.h"\n', 'native/cpu/linear.cc:1: cpu must not include'],
    ['native/core/dtype.h', '#include "../ops/step.h"\n', 'native/core/dtype.h:1: '],
    [
      'native/engine/run.cc',
      'int a;\n/* x\n */ auto b = create_cpu_backend(0);\n',
      'native/engine/run.cc:3: engine names a device',
    ],
    ['native/model/m.cc', 'if (cuda) run();\n', 'native/model/m.cc:1: model names a device: cuda'],
    ['native/misc/m.cc', '\n', 'native/misc/m.cc:1: native/misc is not one of the layers'],
    ['lib/model.ts', "\n\nimport { x } from '../bin/run'\n", 'lib/model.ts:3: lib must not import "../bin/run"'],
    [
      'lib/chat/a.ts',
      "import type { Qwen3 } from '../model'\n",
      'lib/chat/a.ts:1: lib/chat must not import "../model"',
    ],
    [
      'lib/model.ts',
      "const load = require('node-gyp-build')\n",
      'lib/model.ts:1: only lib/native.ts touches the addon',
    ],
    ['bin/run.ts', "import { tmp } from '../test/helpers/command'\n", 'bin/run.ts:1: bin must not import'],
  ])('reports %s with its line', (file, text, message) => {
    const { status, lines } = check({ [file]: text })
    expect(status).toBe(1)
    expect(lines[0]).toContain(message)
  })
})

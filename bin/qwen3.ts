#!/usr/bin/env node
/** The `qwen3` command: one file a subcommand. */
import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import { addBench } from './bench'
import { addBuild } from './build'
import { addChat } from './chat'
import { explain } from './common/exit'
import { packageFile } from './common/package'
import { watchPipes, watchWarnings } from './common/terminal'
import { addDemo } from './demo'
import { addDoctor } from './doctor'
import { addInspect } from './inspect'
import { addRun } from './run'
import { addTokenize } from './tokenize'

const afterHelp = `
First steps:
  qwen3 run 'Tom has 12 apples. Day 1: he buys 30. Day 2: he loses 7. How many apples does Tom have now?'
  qwen3 demo                         the same model at three thinking budgets, side by side
  qwen3 chat --model ./Qwen3-0.6B    a conversation with a model you downloaded
  qwen3 help run                     every option of a command, with examples

Exit codes:
  0 done   1 the work failed   2 the command line is wrong   130 interrupted (Ctrl-C)   143 terminated

Environment:
  NO_COLOR no colour   FORCE_COLOR colour into pipes too   QWEN3_ADDON_PATH another build of the native addon`

async function main(argv: string[]): Promise<void> {
  watchPipes()
  watchWarnings()
  const { version } = JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string }
  const program = new Command('qwen3')
    .description('Runs Qwen3 models on this machine, thinking or not, within a budget.')
    .version(version, '-V, --version')
    .helpCommand('help [command]', 'every option of a command, with examples')
    .exitOverride()
    .showSuggestionAfterError(true)
    .showHelpAfterError('(qwen3 --help lists the commands and their options)')
    .configureHelp({ showGlobalOptions: false })
    .addHelpText('after', afterHelp)
  for (const add of [addRun, addChat, addDemo, addInspect, addTokenize, addBench, addBuild, addDoctor]) add(program)
  try {
    await program.parseAsync(argv)
  } catch (error) {
    const code = explain(error)
    // A signal has set its own code already: SIGTERM is told apart from Ctrl-C there.
    process.exitCode = process.exitCode || code
  }
}

void main(process.argv)

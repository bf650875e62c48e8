// Four ways to limit thinking: a budget in tokens, none at all, a deadline, and a word from outside while it runs.
import { Qwen3 } from 'qwen3'

const question =
  'Start with 31. Step 1: add 78. Step 2: subtract 25. Step 3: add 3. Step 4: subtract 48. Which number do you get?'
const model = await Qwen3.load('nano')
try {
  for (const options of [{}, { thinkingBudget: 32 }, { thinkingBudget: 0 }, { thinkingDeadlineMs: 20 }]) {
    const { text, thinkingStop, usage } = await model.chat(question, { ...options, seed: 1 }).result()
    console.log(JSON.stringify(options), '->', text, `(${usage.thinkingTokens} tokens, stopped: ${thinkingStop})`)
  }

  // End the thought as soon as it has written its first line. The wrap-up sentence and the answer follow.
  const stream = model.chat(question, { seed: 1 })
  let thinking = ''
  for await (const event of stream) {
    if (event.type === 'thinking') thinking += event.text
    if (thinking.includes('\n')) stream.endThinking()
  }
  const { text, thinkingStop } = await stream.result()
  console.log('endThinking() ->', text, `(stopped: ${thinkingStop})`)
} finally {
  await model.close()
}

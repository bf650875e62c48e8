// Drafts from the text so far (prompt lookup): where an answer repeats its prompt or itself, several tokens come out of one
// step. The answer is the same, token for token, also when sampling; only the time changes.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano')
try {
  const question = 'Start with 47. Step 1: add 38. Step 2: double it. Step 3: minus 55. What is the result?'
  const plain = await model.chat(question, { seed: 1 }).result()
  const drafted = await model.chat(question, { seed: 1, speculation: { type: 'prompt-lookup' } }).result()

  const { draftTokens, acceptedTokens, completionTokens } = drafted.usage
  console.log(drafted.text)
  console.log(`${acceptedTokens} of ${draftTokens} drafted tokens accepted, ${completionTokens} tokens in all`)
  console.log('the same without:', drafted.ids.join() === plain.ids.join())
} finally {
  await model.close()
}

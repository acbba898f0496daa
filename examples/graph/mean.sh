# Prints the mean of the numbers from what the jobs before wrote.
echo "mean: $(($(cat build/sum.txt) / $(cat build/count.txt)))"
